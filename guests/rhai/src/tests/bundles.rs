//! The bundles of scripts in `policies/`: each takes the settings that it lists, and its manifest is complete.

use std::{fs, path::PathBuf};

use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../policies")
}

/// The manifest of each bundle that is a script.
fn bundles() -> Vec<(String, toml::Table, String)> {
    let mut bundles = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(manifest) = fs::read_to_string(path.join("policy.toml")) else { continue };
        let manifest: toml::Table = toml::from_str(&manifest).unwrap();
        if let Some(script) = manifest.get("script").and_then(toml::Value::as_str) {
            let text = fs::read_to_string(path.join(script)).unwrap();
            bundles.push((path.file_name().unwrap().to_str().unwrap().to_owned(), manifest, text));
        }
    }
    bundles
}

/// The settings that a bundle lists.
pub(super) fn settings(bundle: &str) -> Value {
    let (_, manifest, _) = bundles().into_iter().find(|(name, ..)| name == bundle).unwrap();
    serde_json::to_value(&manifest["settings"]).unwrap()
}

#[test]
fn each_takes_its_own_settings_and_is_of_its_kind() {
    let bundles = bundles();
    assert!(bundles.len() >= 12, "{}", bundles.len());
    for (name, manifest, script) in bundles {
        assert_eq!(manifest["name"].as_str(), Some(name.as_str()));
        assert_eq!(manifest["guest"].as_str(), Some("rhai"), "{name}");
        let settings = json!({ "script": script, "settings": manifest["settings"], "kind": manifest["kind"] });
        let policy = Rhai::configure(serde_json::from_value(settings).unwrap());
        assert!(policy.is_ok(), "{name}: {:?}", policy.err());
    }
}

#[test]
fn each_refuses_settings_that_it_does_not_know() {
    for (name, manifest, script) in bundles() {
        let mut settings = serde_json::to_value(&manifest["settings"]).unwrap();
        settings["no_such_setting"] = json!(1);
        let problems = configure(&script, &settings).unwrap_err();
        assert!(
            problems[0].starts_with("settings.no_such_setting: is unknown; the settings are"),
            "{name}: {problems:?}"
        );
    }
}

#[test]
fn each_names_the_rules_of_its_findings() {
    for (name, manifest, script) in bundles() {
        let mut said = Vec::new();
        for call in ["finding(\"", "condition(\"", "host(\""] {
            said.extend(script.split(call).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
        // `over(.., "rule", "unit", note)` and `over_ratio(.., "rule", "what")`.
        for line in script.lines().filter(|line| line.trim_start().starts_with("over") && line.contains(", \"")) {
            // The helper itself passes its unit on.
            said.extend(line.split('"').nth(1).map(str::to_owned).filter(|rule| !rule.ends_with("ppm")));
        }
        said.sort();
        said.dedup();
        let listed = manifest.get("findings").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        let mut listed: Vec<_> = listed.iter().map(|rule| rule.as_str().unwrap().to_owned()).collect();
        listed.sort();
        assert_eq!(listed, said, "{name}");
    }
}

#[test]
fn twins_list_the_settings_of_their_originals() {
    for (name, manifest, _) in bundles() {
        let Some(original) = name.strip_suffix("-rhai") else { continue };
        let original = fs::read_to_string(folder().join(original).join("policy.toml")).unwrap();
        let original: toml::Table = toml::from_str(&original).unwrap();
        assert_eq!(manifest["settings"], original["settings"], "{name}");
        assert_eq!(manifest["kind"], original["kind"], "{name}");
    }
}

#[test]
fn the_examples_of_the_documentation_compile() {
    let text = include_str!("../../../../docs/scripts.md");
    let examples: Vec<_> = text.split("```js\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 7, "{}", examples.len());
    for example in examples {
        let whole =
            if example.contains("fn ") { example.to_owned() } else { format!("fn judge(check) {{ {example} }}") };
        // What is no whole policy becomes one; what its settings lack is no matter here.
        let is_whole =
            Kind::ALL.iter().any(|kind| kind.functions().iter().all(|f| whole.contains(&format!("fn {}(", f.name()))));
        let script = if is_whole { whole } else { format!("{whole}\nfn compare(pair) {{ same() }}") };
        let problems = configure(&script, &json!({ "max_error_rate": "2%" })).err().unwrap_or_default();
        assert!(problems.iter().all(|problem| problem.starts_with("settings.")), "{example}\n{problems:?}");
    }
}
