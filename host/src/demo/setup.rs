//! The demo's folder and configuration: the shipped bundles and worker, with the stage clock compressed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{DemoError, Options};

/// The workers of V2's pool; V1's is serialized.
pub(super) const V2_WORKERS: usize = 4;

/// The judge that the story begins with, and the one that takes over: the same rules, as a script and compiled.
pub(super) const FIRST_JUDGE: &str = "policies/sequential-rhai";
/// The judge that takes over from [`FIRST_JUDGE`] under load.
pub(super) const SECOND_JUDGE: &str = "policies/sequential";

/// What differs from the shipped settings of both: a second stands for 20 minutes, so a stage is over before some hundred
/// sessions were on V2, and evidence of safety is asked for in proportion.
pub(super) const JUDGE_SETTINGS: &str = "unsafe_error_rate = \"15%\"";

/// The shipped stages, in hours; the last is open-ended.
const STAGES: [(&str, Option<u32>); 6] =
    [("5%", Some(1)), ("10%", Some(1)), ("25%", Some(2)), ("50%", Some(4)), ("75%", Some(8)), ("100%", None)];

/// The repository, the configuration and the temporary folder of the demo.
#[derive(Debug)]
pub(super) struct Stage {
    /// The root of the repository, where bundles and components are.
    pub(super) root: PathBuf,
    /// The configuration of the demo's host, as TOML.
    pub(super) config: String,
    folder: Folder,
}

/// A folder that goes away with its owner.
#[derive(Debug)]
struct Folder(PathBuf);

impl Stage {
    /// The demo's own folder, which is removed at the end.
    pub(super) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Makes V2's workers fail and slow down: they read this file before each call.
    pub(super) fn break_v2(&self) -> io::Result<()> {
        let file = self.folder().join("v2-faults.json");
        let new = self.folder().join("v2-faults.json.new");
        fs::write(&new, r#"{"error_share": 0.3, "latency_ms": 20}"#)?;
        fs::rename(new, file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "the demo's folder is left behind");
        }
    }
}

/// Makes the folder and the configuration.
pub(super) fn prepare(options: &Options) -> Result<Stage, DemoError> {
    let root = std::path::absolute(&options.root)?;
    let components = root.join("target/components");
    let needed = ["policies/sticky-share", FIRST_JUDGE, SECOND_JUDGE, "examples/programs/worker.py"];
    for path in needed.map(|p| root.join(p)).into_iter().chain([components.clone()]) {
        if !path.exists() {
            return Err(DemoError::Missing { path: path.display().to_string() });
        }
    }
    let folder = Folder(std::env::temp_dir().join(format!("cutover-demo-{}", uuid::Uuid::new_v4())));
    fs::create_dir(&folder.0)?;
    let config = config(&root, &components, &folder.0, if options.fast { 3 } else { 30 });
    Ok(Stage { root, config, folder })
}

fn config(root: &Path, components: &Path, folder: &Path, hour: u32) -> String {
    let text = |path: PathBuf| toml::Value::from(path.display().to_string()).to_string();
    let worker = text(root.join("examples/programs/worker.py"));
    let faults = text(folder.join("v2-faults.json"));
    let bundle = |name: &str| text(root.join("policies").join(name));
    let stages: Vec<_> = STAGES
        .iter()
        .map(|(share, hours)| match hours {
            Some(hours) => format!("{{ share = \"{share}\", soak = \"{}s\" }}", hours * hour),
            None => format!("{{ share = \"{share}\" }}"),
        })
        .collect();
    format!(
        r#"
[host]
data_plane = "127.0.0.1:0"
admin = "127.0.0.1:0"
store = "demo.db"
components = {components}
policy_folders = [{policies}]

[migrations.programs]
check_interval = "1s"
deadline = "4s"

# Nobody else reaches this host; each pool is measured before V2 has callers.
[migrations.programs.override]
anyone = true
testers = true

[migrations.programs.operations]
create_program = {{ class = "replicate", key = "program_id" }}
delete_program = {{ class = "replicate", key = "program_id", removes = true }}
execute = {{ class = "read" }}
list_programs = {{ class = "read" }}
health_check = {{ class = "exclusive" }}

[migrations.programs.v1]
mode = "serialized"
workers = 1
command = ["python3", {worker}]

[migrations.programs.v2]
mode = "concurrent"
workers = {V2_WORKERS}
command = ["python3", {worker}, "--faults", {faults}]
drain_timeout = "5s"

[migrations.programs.policies]
routing = {routing}
comparison = {comparison}

[migrations.programs.policies.rollback]
bundle = {rollback}
settings = {{ {JUDGE_SETTINGS} }}

[migrations.programs.policies.stages]
bundle = {stages_bundle}
settings = {{ min_requests = 20, shadow = {{ min_compared = 200 }}, stages = [{stages}] }}
"#,
        components = text(components.to_owned()),
        policies = text(root.join("policies")),
        routing = bundle("sticky-share"),
        comparison = bundle("json-compare"),
        rollback = text(root.join(FIRST_JUDGE)),
        stages_bundle = bundle("standard-stages"),
        stages = stages.join(", "),
    )
}
