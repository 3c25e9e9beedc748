//! A package, built by the tool that it pins, which npm installs into its folder.
//!
//! The tool compiles the module into a JavaScript engine, and stubs the WASI of that engine within the component, so that
//! nothing is imported.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{super::component, BuildError, file, process};
use cutover_model::port::Kind;

/// The contract, which the tool makes the component for.
const WIT: [(&str, &str); 5] = [
    ("judging.wit", include_str!("../../../../../../wit/judging.wit")),
    ("policy.wit", include_str!("../../../../../../wit/policy.wit")),
    ("results.wit", include_str!("../../../../../../wit/results.wit")),
    ("routing.wit", include_str!("../../../../../../wit/routing.wit")),
    ("types.wit", include_str!("../../../../../../wit/types.wit")),
];

/// How to get npm.
const GET_NPM: &str = "install Node.js 20 or later from https://nodejs.org, or begin a policy in Rhai, which needs no \
                       toolchain";

/// The tool that the templates pin.
const TOOL: &str = "node_modules/.bin/componentize-qjs";

/// Builds the component of the package in a folder and returns its file.
pub(super) fn component(folder: &Path, kind: Kind, note: &dyn Fn(&str)) -> Result<PathBuf, BuildError> {
    let manifest = manifest(folder)?;
    let module = manifest.get("main").and_then(Value::as_str).unwrap_or("policy.js");
    let world = manifest.pointer("/cutover/world").and_then(Value::as_str);
    let world = world.map_or_else(|| format!("{kind}-policy"), ToOwned::to_owned);
    if !folder.join(module).is_file() {
        return Err(BuildError::NoModule(module.into()));
    }
    install(folder, note)?;
    let scratch = folder.join("node_modules/.cutover");
    let wit = scratch.join("wit");
    fs::create_dir_all(&wit).map_err(|e| file(&wit, e))?;
    for (name, text) in WIT {
        let path = wit.join(name);
        fs::write(&path, text).map_err(|e| file(&path, e))?;
    }
    let draft = scratch.join("policy.wasm");
    let mut tool = command(folder, TOOL);
    // Not `--opt-size`: that build of the engine has tail calls, which the host does not allow.
    tool.args(["--sync", "--stub-wasi", "--world", &world]);
    tool.args(["--wit", "node_modules/.cutover/wit", "--js", module, "--module-root", "."]);
    tool.args(["--output", "node_modules/.cutover/policy.wasm"]);
    note(&format!("running `{}`", process::line(&tool)));
    process::run(&mut tool, "is `componentize-qjs` among the `devDependencies` of package.json?")?;
    Ok(draft)
}

/// Installs what the package pins, unless that is there.
fn install(folder: &Path, note: &dyn Fn(&str)) -> Result<(), BuildError> {
    let pins: Vec<u8> = ["package.json", "package-lock.json"]
        .iter()
        .flat_map(|pin| fs::read(folder.join(pin)).unwrap_or_default())
        .collect();
    let (digest, stamp) = (component::digest(&pins), folder.join("node_modules/.cutover-installed"));
    if folder.join(TOOL).exists() && fs::read_to_string(&stamp).is_ok_and(|known| known == digest) {
        return Ok(());
    }
    // Not `npm ci`, which refuses a lock file without the optional binaries of every platform. The versions and digests
    // are those of the lock file all the same.
    let mut npm = command(folder, "npm");
    npm.args(["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]);
    note(&format!("running `{}`", process::line(&npm)));
    process::run(&mut npm, GET_NPM)?;
    fs::write(&stamp, digest).map_err(|e| file(&stamp, e))
}

/// A command in the folder. A program in it is meant from there, not from where we are.
fn command(folder: &Path, program: &str) -> Command {
    let inside = folder.join(program);
    let inside = fs::canonicalize(&inside).map(|_| std::path::absolute(&inside).unwrap_or(inside));
    let mut command = Command::new(inside.unwrap_or_else(|_elsewhere| program.into()));
    command.current_dir(folder);
    command
}

fn manifest(folder: &Path) -> Result<Value, BuildError> {
    let path = folder.join("package.json");
    let text = fs::read_to_string(&path).map_err(|e| file(&path, e))?;
    serde_json::from_str(&text)
        .map_err(|e| BuildError::Unexpected { line: path.display().to_string(), what: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(manifest: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("package.json"), manifest).unwrap();
        component(folder.path(), Kind::Rollback, &|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_package_without_a_policy_is_refused_before_anything_is_installed() {
        assert!(refusal("{}").contains("the package has no `policy.js`"));
        assert!(refusal(r#"{ "main": "judge.js" }"#).contains("the package has no `judge.js`"));
        assert!(refusal("{").contains("package.json` says something unexpected"));
    }

    #[test]
    fn the_contract_is_the_whole_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../wit");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<_> =
            files.filter(|name| std::path::Path::new(name).extension().is_some_and(|kind| kind == "wit")).collect();
        files.sort();
        assert_eq!(files, WIT.map(|(name, _)| name));
    }
}
