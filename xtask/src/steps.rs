//! Steps in order, each announced and timed; the first that fails is the last.

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// One line of progress, and what is done under it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) action: fn(&Workspace) -> Result<()>,
}

#[expect(clippy::disallowed_types, reason = "the time that a step took is shown and decides nothing")]
pub(crate) fn run(steps: &[Step], workspace: &Workspace) -> Result<()> {
    for (step, number) in steps.iter().zip(1..) {
        eprintln!("==> [{number}/{}] {}", steps.len(), step.name);
        let start = std::time::Instant::now();
        (step.action)(workspace).with_context(|| format!("step `{}` failed", step.name))?;
        eprintln!("    done in {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_failing_step_is_named_and_the_last() {
        let workspace = Workspace::at("/nowhere".into(), "/nowhere/target".into());
        let steps = [
            Step { name: "first", action: |_| Ok(()) },
            Step { name: "second", action: |_| bail!("it broke") },
            Step { name: "third", action: |_| panic!("not reached") },
        ];
        let error = run(&steps, &workspace).unwrap_err();
        assert_eq!(format!("{error:#}"), "step `second` failed: it broke");
    }
}
