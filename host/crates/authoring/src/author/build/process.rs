//! Other programs: run to their end. What they write goes to standard error, because standard output is for results.

use std::{
    io,
    process::{Command, Output, Stdio},
};

use super::BuildError;

/// Runs to the end; anything but success is an error. `mend` says how to get the program.
pub(super) fn run(command: &mut Command, mend: &'static str) -> Result<(), BuildError> {
    let status = command.stdin(Stdio::null()).stdout(io::stderr()).status();
    let status = status.map_err(|source| BuildError::Start { line: line(command), mend, source })?;
    if status.success() {
        return Ok(());
    }
    Err(BuildError::Failed { line: line(command), status: status.to_string() })
}

/// What it writes on standard output.
pub(super) fn stdout(command: &mut Command, mend: &'static str) -> Result<String, BuildError> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let Output { status, stdout, .. } =
        output.map_err(|source| BuildError::Start { line: line(command), mend, source })?;
    if !status.success() {
        return Err(BuildError::Failed { line: line(command), status: status.to_string() });
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// Whether it can be started and succeeds; quiet.
pub(super) fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// The command as one would type it, with the program's name for its path.
pub(super) fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(std::ffi::OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_and_its_end_and_a_missing_program_how_to_get_it() {
        let error = run(Command::new("/bin/sh").args(["-c", "exit 3"]), "").unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` ended with exit status: 3; what it says is above");
        let error = stdout(&mut Command::new("no-such-program"), "install it").unwrap_err();
        assert_eq!(error.to_string(), "cannot start `no-such-program`; install it");
        assert!(!succeeds(&mut Command::new("no-such-program")));
    }
}
