//! Runs a test in a process of its own, so that what would end the process or fill the memory is seen, and is seen to be
//! this test's.

use std::{env, fs, os::unix::process::ExitStatusExt as _, process::Command};

/// Set in the process that a test has to itself.
const ALONE: &str = "CUTOVER_TEST_ALONE";

/// Runs `test` in a new process, which is this program called with the name of the test alone. It must end well, and
/// must never have had more than `max_mib` of resident memory.
pub(crate) fn alone(name: &str, max_mib: u64, test: impl FnOnce()) {
    if env::var_os(ALONE).is_some() {
        test();
        let peak = peak_mib();
        assert!(peak <= max_mib, "{name} had {peak} MiB of resident memory, at most {max_mib} were expected");
        // For those who set the bounds.
        print(&format!("{name}: {peak} MiB at the most"));
        return;
    }
    let child = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads", "1"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("1 passed") || !child.status.success(), "no test is called `{name}`:\n{said}");
    assert!(
        child.status.success(),
        "{name} ended with {:?}:\n{said}",
        child.status.signal().map_or(child.status.code(), Some)
    );
    print(&said);
}

/// The most resident memory that this process ever had.
pub(crate) fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
}

#[expect(clippy::print_stdout, reason = "the output of a test, shown if it fails or on demand")]
fn print(text: &str) {
    println!("{text}");
}
