//! The flow of imports: which crate of the host may need which, and in which order the modules of a crate stand.
//!
//! Cargo itself refuses an import of a crate that is not a dependency; here is which dependencies there may be. Within a
//! crate a module may use those that stand before it in its order, so that no two need each other. Tests are free.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use syn::visit::{self, Visit};

use crate::{lines, workspace::Workspace};

/// A crate of the host: its folder, the crates that it may need, and its modules in their order.
struct Rule {
    name: &'static str,
    source: &'static str,
    needs: &'static [&'static str],
    modules: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        name: "cutover-model",
        source: "host/crates/model/src",
        needs: &["cutover-contract"],
        modules: &["causes", "escape", "environment", "clock", "request", "facts", "port"],
    },
    Rule {
        name: "cutover-policy-host",
        source: "host/crates/policy/src",
        needs: &["cutover-contract", "cutover-model"],
        modules: &[
            "wasi",
            "blocking",
            "dsse",
            "keys",
            "release",
            "trust",
            "sign",
            "error",
            "check",
            "ask",
            "bundle",
            "engine",
            "admission",
            "installed",
            "candidate",
            "slot",
            "record",
            "catch_up",
            "replay",
            "route",
            "evaluation",
            "history",
        ],
    },
    Rule {
        name: "cutover-authoring",
        source: "host/crates/authoring/src",
        needs: &["cutover-contract", "cutover-model", "cutover-policy-host"],
        modules: &["author", "cases", "backtest"],
    },
    Rule {
        name: "cutover-traffic",
        source: "host/crates/traffic/src",
        needs: &["cutover-contract", "cutover-model", "cutover-policy-host"],
        modules: &[
            "descriptors",
            "failover",
            "http1",
            "load",
            "message",
            "pace",
            "proxy_protocol",
            "read_buffer",
            "observe",
            "pool",
            "compare",
            "split",
            "shadow",
            "dispatch",
            "proxy",
            "ingress",
        ],
    },
    Rule {
        name: "cutover-store",
        source: "host/crates/store/src",
        needs: &["cutover-model", "cutover-policy-host", "cutover-traffic"],
        modules: &[
            "state",
            "database",
            "file",
            "lock",
            "room",
            "ground",
            "identity",
            "records",
            "markers",
            "packed",
            "memories",
            "sessions",
            "history",
            "calls",
            "in_force",
            "journal",
            "plans",
            "releases",
            "slots",
            "consistency",
            "postgres_server",
            "port",
        ],
    },
    Rule {
        name: "cutover-control",
        source: "host/crates/control/src",
        needs: &["cutover-model", "cutover-policy-host", "cutover-traffic", "cutover-store"],
        modules: &["registry", "notify", "migration"],
    },
    Rule {
        name: "cutover",
        source: "host/src",
        needs: &[
            "cutover-contract",
            "cutover-model",
            "cutover-policy-host",
            "cutover-authoring",
            "cutover-traffic",
            "cutover-store",
            "cutover-control",
        ],
        modules: &["oci", "config", "host", "admin", "app", "handover", "demo", "cli"],
    },
];

/// Something that goes against the flow.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    place: String,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.place, self.what)
    }
}

pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut found = crates(&workspace.packages);
    for rule in RULES {
        found.extend(modules(&workspace.root, rule)?);
    }
    if !found.is_empty() {
        let all: Vec<_> = found.iter().map(ToString::to_string).collect();
        bail!("against the flow of imports (see `xtask/src/flow.rs` and ARCHITECTURE.md):\n  {}", all.join("\n  "));
    }
    Ok(())
}

/// Dependencies between our own crates that no rule has; those of tests are free.
fn crates(packages: &[Value]) -> Vec<Violation> {
    let mut found = Vec::new();
    for rule in RULES {
        let package = packages.iter().find(|package| package.get("name").is_some_and(|name| name == rule.name));
        let Some(package) = package else {
            found.push(Violation { place: rule.name.into(), what: "is no crate of the workspace".into() });
            continue;
        };
        let all = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
        let needed = all.filter(|of| of.get("kind").is_none_or(Value::is_null) && of.get("path").is_some());
        for name in needed.filter_map(|of| of.get("name")?.as_str()) {
            if !rule.needs.contains(&name) {
                let what = format!("needs `{name}`, and may need {}", rule.needs.join(", "));
                found.push(Violation { place: rule.name.into(), what });
            }
        }
    }
    found
}

/// Imports of modules that stand later in their crate's order.
fn modules(root: &Path, rule: &Rule) -> Result<Vec<Violation>> {
    let folder = root.join(rule.source);
    let order: BTreeMap<&str, usize> = rule.modules.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let mut found = Vec::new();
    for path in lines::sources(&folder)? {
        let file = path.strip_prefix(&folder).unwrap_or(&path);
        let mut module: Vec<String> =
            file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        // The crate's root names them all; files of tests may use what they like.
        if matches!(module.as_slice(), [one] if one == "lib" || one == "main")
            || module.last().is_some_and(|m| m == "tests")
            || (rule.source == "host/src" && file.starts_with("crates"))
        {
            continue;
        }
        let place = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let Some(own) = module.first().cloned() else { continue };
        let Some(at) = order.get(own.as_str()).copied() else {
            found.push(Violation { place, what: format!("belongs to `{own}`, which has no place in the order") });
            continue;
        };
        let source = fs::read_to_string(&path).with_context(|| format!("could not read `{place}`"))?;
        let parsed = syn::parse_file(&source).with_context(|| format!("could not parse `{place}`"))?;
        let mut imports = Imports { module: std::mem::take(&mut module), found: Vec::new() };
        imports.visit_file(&parsed);
        for import in imports.found {
            let of = import.first().and_then(|name| order.get(name.as_str()));
            if of.is_some_and(|of| *of > at) {
                let (import, other) = (import.join("::"), import.first().cloned().unwrap_or_default());
                let what = format!("imports `crate::{import}`, and `{own}` stands before `{other}`");
                found.push(Violation { place: place.clone(), what });
            }
        }
    }
    Ok(found)
}

/// Collects what a file names of its own crate, as paths from the crate's root.
struct Imports {
    module: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Imports {
    fn add(&mut self, path: &[String]) {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let absolute = match path.first().map(String::as_str) {
            Some("crate") => path.get(1..).map(<[String]>::to_vec),
            Some("super") => {
                let above = self.module.len().checked_sub(ups).and_then(|depth| self.module.get(..depth));
                above.zip(path.get(ups..)).map(|(above, rest)| [above, rest].concat())
            }
            _ => None,
        };
        self.found.extend(absolute.filter(|path| !path.is_empty()));
    }

    fn add_tree(&mut self, before: &mut Vec<String>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(before, &path.tree);
                before.pop();
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.add_tree(before, item)),
            syn::UseTree::Name(name) => self.add(&[before.as_slice(), &[name.ident.to_string()]].concat()),
            syn::UseTree::Rename(name) => self.add(&[before.as_slice(), &[name.ident.to_string()]].concat()),
            syn::UseTree::Glob(_) => self.add(before),
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
        });
        if !is_test {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&parts);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // What a macro is given may be anything; the paths in it can be seen all the same.
        let text = item.tokens.to_string();
        for (at, _) in text.match_indices("crate :: ") {
            let rest = text.get(at..).unwrap_or_default();
            let parts = rest.split(" :: ").map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_').next());
            let parts: Vec<_> = parts.map(|part| part.unwrap_or_default().to_owned()).take(3).collect();
            self.add(&parts);
        }
        visit::visit_macro(self, item);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULE: Rule =
        Rule { name: "cutover-traffic", source: "host/crates/traffic/src", needs: &[], modules: &["pool", "ingress"] };

    fn found(file: &str, source: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RULE.source).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, source).unwrap();
        modules(folder.path(), &RULE).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_import_against_the_order_is_named_by_file_and_import() {
        let told =
            "host/crates/traffic/src/pool/worker.rs imports `crate::ingress::tls`, and `pool` stands before `ingress`";
        for source in [
            "use crate::ingress::tls;",
            "use crate::{ingress::{tls}, pool::journal};",
            "use super::super::ingress::tls as t;",
            "fn f() { crate::ingress::tls(); }",
            "mod inner { use super::super::super::ingress::tls; }",
            "fn f() { println!(\"{}\", crate::ingress::tls); }",
        ] {
            assert_eq!(found("pool/worker.rs", source), [told], "{source}");
        }
    }

    #[test]
    fn what_stands_before_and_what_tests_use_is_free() {
        assert_eq!(found("ingress.rs", "use crate::pool::Pool; use super::ingress; use std::fs;"), [""; 0]);
        assert_eq!(found("pool.rs", "#[cfg(test)] mod tests { use crate::ingress::tls; }"), [""; 0]);
        assert_eq!(found("pool/tests.rs", "use crate::ingress::tls;"), [""; 0]);
        assert_eq!(found("lib.rs", "pub use crate::ingress;"), [""; 0]);
        let told = "host/crates/traffic/src/new.rs belongs to `new`, which has no place in the order";
        assert_eq!(found("new.rs", ""), [told]);
    }

    #[test]
    fn the_tree_keeps_to_it() {
        check(&Workspace::load().unwrap()).unwrap();
    }

    #[test]
    fn a_crate_needs_what_its_rule_says() {
        let package = |rule: &Rule, needs: &[&str]| {
            let all = needs.iter().map(|name| json!({ "name": name, "path": "/", "kind": null }));
            json!({ "name": rule.name, "dependencies": all.collect::<Vec<_>>() })
        };
        let mut packages: Vec<_> = RULES.iter().map(|rule| package(rule, rule.needs)).collect();
        assert_eq!(crates(&packages), []);
        packages[0] = package(&RULES[0], &["cutover-control"]);
        let told = crates(&packages);
        assert_eq!(told[0].to_string(), "cutover-model needs `cutover-control`, and may need cutover-contract");
        packages[0]["dependencies"][0]["kind"] = "dev".into();
        assert_eq!(crates(&packages), []);
    }
}
