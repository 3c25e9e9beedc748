//! Back-tests: recorded checks shown to one or two policies in virtual time, and what each would have done when.
//!
//! Now is the time at which a check was recorded; policies remember what they would have remembered, as in the host: a
//! change of stage resets nothing, and what a policy remembers is kept only if it answered. Each side has a thread of
//! its own with kept instances, behind a short queue, so that a month is neither slow nor in memory at once.
//!
//! **What a back-test cannot know**: after a roll-back that a policy would have asked for, the recorded traffic goes on
//! as it was, at the recorded shares. The first roll-back is what would have happened; what comes after it only says
//! what the policy thought of what did happen.

pub mod gaps;
pub mod report;
pub mod runs;
pub mod side;

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use self::{
    gaps::Gaps,
    report::{History, Report, SideReport},
    runs::{Runs, Stand},
    side::Side,
};
use cutover_model::clock::UnixMs;
use cutover_policy_host::history::{CLOCK_SET_BACK, FAULT, Line, Mark, Recorded};

/// Checks that go to a side's thread together: enough that handing them over costs nothing.
const CHUNK: usize = 128;

/// Chunks that wait for a side; the reader waits when the queue is full.
const QUEUE: usize = 4;

/// Marks that are kept; a file with more is not marked but logged to.
const MAX_MARKS: usize = 1_000;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError<E> {
    /// The history cannot be read to its end.
    #[error(transparent)]
    History(E),
    /// There is no check in it.
    #[error("the history has no checks in this span of time")]
    Empty,
    /// A stages policy needs verdicts, and there are none.
    #[error(
        "the history has no recorded verdicts, which a stages policy needs; give a rollback policy with it (`--policy` twice)"
    )]
    NoVerdicts,
    /// A bug in this program.
    #[error("the thread of a side panicked; this is a bug of cutover")]
    Panicked,
}

/// What is asked of a back-test besides history and policies.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// When V2 began to be at fault, in addition to the marks of the history.
    pub faults: Vec<UnixMs>,
}

/// Shows all of `lines` to all of `sides`. `progress` hears now and then how many checks were read, and of when the last
/// one is.
///
/// # Errors
/// Why there is no report.
pub fn run<E: Send>(
    lines: impl Iterator<Item = Result<Line, E>>,
    sides: Vec<Side>,
    options: &Options,
    mut progress: impl FnMut(u64, UnixMs),
) -> Result<Report, BacktestError<E>> {
    let needs_verdicts = sides.iter().any(Side::needs_recorded_verdicts);
    let (read, sides) = thread::scope(|scope| {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for side in sides {
            let (queue, chunks) = sync_channel(QUEUE);
            queues.push(queue);
            threads.push(scope.spawn(move || listen(side, &chunks)));
        }
        let read = feed(lines, &queues, &mut progress);
        // Without the queues the sides come to their end.
        drop(queues);
        (read, threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Result<Vec<_>, _>>())
    });
    let sides = sides.map_err(|_panic| BacktestError::Panicked)?;
    let read = read.map_err(BacktestError::History)?;
    if read.history.checks == 0 {
        return Err(BacktestError::Empty);
    }
    if needs_verdicts && read.recorded.is_empty() {
        return Err(BacktestError::NoVerdicts);
    }
    let marked = read.history.marks.iter().filter(|mark| mark.kind == FAULT).map(|mark| mark.at);
    let mut faults: Vec<_> = marked.chain(options.faults.iter().copied()).collect();
    faults.sort_unstable();
    faults.dedup();
    Ok(Report::new(read.history, sides, &read.recorded, &faults))
}

/// What the reader learns.
struct Read {
    history: History,
    recorded: Runs,
}

/// Reads everything and hands it to the sides.
fn feed<E>(
    lines: impl Iterator<Item = Result<Line, E>>,
    queues: &[SyncSender<Arc<[Recorded]>>],
    progress: &mut impl FnMut(u64, UnixMs),
) -> Result<Read, E> {
    let mut read = Read { history: History::default(), recorded: Runs::default() };
    let (mut chunk, mut gaps) = (Vec::with_capacity(CHUNK), Gaps::default());
    for line in lines {
        match line? {
            Line::Check(recorded) => {
                read.learn(&recorded, &mut gaps);
                chunk.push(recorded);
            }
            Line::Mark(mark) => {
                if mark.kind == CLOCK_SET_BACK {
                    gaps.clock_set_back();
                }
                read.mark(mark);
            }
            Line::Unknown => read.history.unknown_lines += 1,
        }
        if chunk.len() == CHUNK {
            hand_over(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK)), queues);
            progress(read.history.checks, read.history.to);
        }
    }
    hand_over(chunk, queues);
    (read.history.gaps, read.history.more_gaps) = gaps.found();
    Ok(read)
}

/// A side that is gone has panicked, which shows when it is joined.
fn hand_over(chunk: Vec<Recorded>, queues: &[SyncSender<Arc<[Recorded]>>]) {
    let chunk: Arc<[Recorded]> = chunk.into();
    for queue in queues {
        drop(queue.send(Arc::clone(&chunk)));
    }
}

fn listen(mut side: Side, chunks: &Receiver<Arc<[Recorded]>>) -> SideReport {
    while let Ok(chunk) = chunks.recv() {
        chunk.iter().for_each(|recorded| side.ask(recorded));
    }
    side.end()
}

impl Read {
    fn learn(&mut self, recorded: &Recorded, gaps: &mut Gaps) {
        let Recorded { check, verdict, .. } = recorded;
        let history = &mut self.history;
        if history.checks == 0 {
            history.from = check.now_ms;
            let begins = check.batches.first().map_or(check.now_ms, |batch| batch.start_ms);
            history.begins_within_stage_ms = begins.0.saturating_sub(check.stage_started_ms.0);
        }
        let stand = verdict.map(|verdict| Stand { verdict: Some(verdict), action: None });
        self.recorded.add(history.checks, check.now_ms, stand);
        history.checks += 1;
        history.batches += check.batches.len() as u64;
        history.to = check.now_ms;
        gaps.add(check);
    }

    fn mark(&mut self, mark: Mark) {
        if self.history.marks.len() < MAX_MARKS {
            self.history.marks.push(mark);
        }
    }
}
