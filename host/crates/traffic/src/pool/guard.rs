//! Makes a process die with the host, also after `kill -9`: the body of the hidden verb `cutover worker-guard`.
//!
//! The host starts a worker as `cutover worker-guard PARENT COMMAND..`. That asks the kernel to kill it when the
//! thread that started it ends (`PR_SET_PDEATHSIG`, prctl(2)), makes sure that the host is still there, and becomes
//! the command. The request survives `execve`; doing it between fork and exec in the host would need `unsafe`.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, process::Command};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Becomes `command`; returns only if that fails.
pub fn become_worker(parent: u32, command: &[OsString]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // A parent that died before the request was made sends no signal.
    let parent = i32::try_from(parent).ok().and_then(Pid::from_raw);
    if getppid() != parent {
        return io::Error::other("the host ended before the worker began");
    }
    match command {
        [program, arguments @ ..] => Command::new(program).args(arguments).exec(),
        [] => io::Error::new(io::ErrorKind::InvalidInput, "no worker command"),
    }
}
