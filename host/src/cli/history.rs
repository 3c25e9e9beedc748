//! `cutover history`: what a host recorded.

pub(super) mod source;

use std::{
    fs::{self, File},
    io::{self, BufRead, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::json;

use self::source::{Origin, Span};
use super::{Failed, HostAddress, output};
use cutover_model::clock::UnixMs;
use cutover_policy_host::history::read::parse;

/// Lines between two words of progress.
const PROGRESS: u64 = 20_000;

/// What a host recorded.
#[derive(Debug, Subcommand)]
pub(super) enum History {
    /// Writes recorded checks as JSON Lines, from a running host or from a store's file.
    Export(Export),
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The migration.
    migration: String,
    /// From this time on, such as `2026-01-31T12:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = UnixMs::parse)]
    from: Option<UnixMs>,
    /// Until before this time.
    #[arg(long, value_name = "TIME", value_parser = UnixMs::parse)]
    to: Option<UnixMs>,
    /// Where to; standard output unless it is given. A file that is there is replaced when all is written.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Read this store instead of asking a host. The host may run meanwhile.
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    #[command(flatten)]
    host: HostAddress,
}

pub(super) fn run(verb: &History) -> Result<(), Failed> {
    match verb {
        History::Export(export) => export.run(),
    }
}

impl Export {
    fn run(&self) -> Result<(), Failed> {
        let span = Span { from: self.from.unwrap_or_default(), to: self.to.unwrap_or(UnixMs(u64::MAX)) };
        let origin = match &self.store {
            Some(file) => Origin::Store { file: file.clone(), migration: Some(self.migration.clone()) },
            None => Origin::Host { admin: self.host.admin.clone(), migration: self.migration.clone() },
        };
        let mut history = origin.open(span)?;
        let Some(file) = &self.output else {
            let lines = copy(&mut history, &mut output::lines(), &origin)?;
            output::note(&format!("{lines} lines"));
            return Ok(());
        };
        let lines = write_file(file, |out| copy(&mut history, out, &origin))?;
        if self.host.format.json {
            output::json(&json!({ "file": file, "lines": lines }));
        } else {
            output::line(&format!("{lines} lines are in `{}`", file.display()));
        }
        Ok(())
    }
}

/// Writes beside the file and takes its place in the end, so that nobody reads a half.
fn write_file(file: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<u64, Failed>) -> Result<u64, Failed> {
    let failed = |e: io::Error| Failed::new(format!("cannot write `{}`: {e}", file.display()));
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let mut out = BufWriter::new(File::create(&part).map_err(failed)?);
    let written = write(&mut out).and_then(|lines| {
        out.flush().and_then(|()| fs::rename(&part, file)).map_err(failed)?;
        Ok(lines)
    });
    if written.is_err() {
        // What is left of it says nothing.
        drop(fs::remove_file(&part));
    }
    written
}

/// Copies lines and returns how many.
fn copy(history: &mut impl BufRead, out: &mut impl Write, origin: &Origin) -> Result<u64, Failed> {
    let read = |e: io::Error| Failed::new(format!("cannot read {origin} to its end: {e}"));
    let (mut line, mut lines) = (Vec::new(), 0);
    loop {
        line.clear();
        if history.read_until(b'\n', &mut line).map_err(read)? == 0 {
            break;
        }
        match out.write_all(&line) {
            Ok(()) => lines += 1,
            // A reader such as `head` has had enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(lines),
            Err(e) => return Err(Failed::new(format!("cannot write the history: {e}"))),
        }
        if lines % PROGRESS == 0 {
            let at = match parse(line.trim_ascii()) {
                Ok(cutover_policy_host::history::Line::Check(recorded)) => recorded.check.now_ms.rfc3339(),
                Ok(_) | Err(_) => String::new(),
            };
            output::note(&format!("{lines} lines, up to {at}"));
        }
    }
    out.flush().map_err(|e| Failed::new(format!("cannot write the history: {e}")))?;
    Ok(lines)
}
