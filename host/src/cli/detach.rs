//! `cutover serve --detach`: starts the host in the background and waits until it serves, or says why it does not.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Failed, Serve, client::Client, output};
use crate::config::Config;
use cutover_model::{causes::chain, clock};

/// How often it is looked whether the host serves.
const LOOK: Duration = Duration::from_millis(100);

/// The part of the log that is shown of a host that ended.
const SHOWN: u64 = 4_000;

pub(super) fn run(args: &Serve) -> Result<(), Failed> {
    // What is wrong with the file is said here, where somebody reads it.
    let config = Config::load_to_serve(&args.file.config).map_err(|e| Failed::usage(chain(&e)))?;
    if config.admin.port() == 0 {
        return Err(Failed::usage(
            "`host.admin` has no port of its own, so nobody could tell when the host serves; set one",
        ));
    }
    let log = args.log.log_file.clone().unwrap_or_else(|| config.store.with_extension("log"));
    let begin = fs::metadata(&log).map_or(0, |file| file.len());
    let mut child = start(args, &log)?;
    let client = Client::new(&config.admin.to_string());
    let deadline = clock::mono() + args.timeout;
    let (pid, shown) = (child.id(), log.display());
    let mut why = String::from("it has not begun to listen");
    loop {
        if let Ok(Some(ended)) = child.try_wait() {
            let code = ended.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1);
            let message = format!("the host ended: {}; its log is `{shown}`", last_words(&log, begin));
            return Err(Failed { code, kind: "ended".into(), message });
        }
        if let Ok(answer) = client.ready() {
            let is_this = answer.get("process").and_then(Value::as_u64) == Some(pid.into());
            if is_this && answer.get("ready").and_then(Value::as_bool) == Some(true) {
                break;
            }
            why = answer.get("waiting_for").map(ToString::to_string).unwrap_or_default();
        }
        if clock::mono() >= deadline {
            let after = humantime::format_duration(args.timeout);
            let message = format!(
                "the host (process {pid}) runs and does not serve after {after}: {why}; its log is `{shown}`, `kill {pid}` \
                 stops it"
            );
            return Err(Failed::coded("timeout", message));
        }
        thread::sleep(LOOK);
    }
    if args.json {
        output::json(&json!({ "process": pid, "data_plane": config.data_plane, "admin": config.admin, "log": log }));
    } else {
        output::line(&format!(
            "the host serves at {}, for operators at {}: process {pid}, which `kill {pid}` drains and stops; its log is `{shown}`",
            config.data_plane, config.admin
        ));
    }
    Ok(())
}

/// The host, in a process group of its own, so that what the terminal is told is not for it.
fn start(args: &Serve, log: &Path) -> Result<Child, Failed> {
    let failed =
        |e: std::io::Error| Failed::new(format!("cannot start the host with its log in `{}`: {e}", log.display()));
    let file: PathBuf = std::path::absolute(&args.file.config).unwrap_or_else(|_unknown| args.file.config.clone());
    let log = std::path::absolute(log).unwrap_or_else(|_unknown| log.to_owned());
    let program = std::env::current_exe().map_err(failed)?;
    let format = match args.log.log_format {
        super::log::LogFormat::Text => "text",
        super::log::LogFormat::Json => "json",
    };
    let errors = super::log::open(&log).map_err(failed)?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(file).arg("--log-file").arg(&log).args(["--log-format", format]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).process_group(0);
    command.spawn().map_err(failed)
}

/// What it said last.
fn last_words(log: &Path, begin: u64) -> String {
    let said = || {
        let mut file = fs::File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(begin.max(end.saturating_sub(SHOWN))))?;
        let mut said = Vec::new();
        file.take(SHOWN).read_to_end(&mut said)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&said).into_owned())
    };
    let said = said().unwrap_or_default();
    let lines: Vec<_> = said.lines().collect();
    let error = lines.iter().rposition(|line| line.starts_with("cutover: "));
    let last = lines.get(error.unwrap_or_default()..).unwrap_or_default().join("\n");
    let last = last.strip_prefix("cutover: ").unwrap_or(&last);
    if last.is_empty() { "it said nothing".into() } else { last.to_owned() }
}
