//! The thread that advances an engine's epoch, which is what interrupts guests. It rests while nobody is asked: a host that
//! serves without asking policies is not woken a thousand times a second for nothing.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use wasmtime::EngineWeak;

use super::EngineError;

/// How often the epoch advances: the resolution of time limits.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Time for which it ticks on when the last limit has passed.
const LINGER: Duration = Duration::from_millis(200);

/// What keeps it ticking.
#[derive(Debug, Clone, Default)]
pub(super) struct Wakeful(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether anybody was asked since the last tick.
    asked: AtomicBool,
    rests: AtomicBool,
    stop: AtomicBool,
    thread: OnceLock<thread::Thread>,
}

/// See the module. The thread ends when this is dropped.
#[derive(Debug)]
pub(super) struct Ticker {
    wakeful: Wakeful,
    thread: Option<thread::JoinHandle<()>>,
}

impl Wakeful {
    /// A guest is asked under a limit that begins now: the epoch advances until that has passed.
    pub(super) fn asks(&self) {
        let shared = &*self.0;
        // Before it rests it has seen nobody for longer than any limit, so that who finds this set is in time.
        if shared.asked.load(Ordering::Acquire) {
            return;
        }
        shared.asked.store(true, Ordering::SeqCst);
        if shared.rests.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }

    fn run(&self, tick: impl Fn() -> bool, patience: u128) {
        let shared = &*self.0;
        shared.thread.get_or_init(thread::current);
        let mut quiet = 0;
        while !shared.stop.load(Ordering::SeqCst) {
            thread::sleep(TICK);
            if !tick() {
                return;
            }
            quiet = if shared.asked.swap(false, Ordering::SeqCst) { 0 } else { quiet + 1 };
            if quiet <= patience {
                continue;
            }
            shared.rests.store(true, Ordering::SeqCst);
            while !shared.asked.load(Ordering::SeqCst) && !shared.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.rests.store(false, Ordering::SeqCst);
            quiet = 0;
        }
    }
}

impl Ticker {
    /// Of an engine whose guests have no longer limit than this.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub(super) fn start(engine: EngineWeak, longest: Duration) -> Result<Self, EngineError> {
        let wakeful = Wakeful::default();
        let (ticks, patience) = (wakeful.clone(), (longest + LINGER).as_nanos() / TICK.as_nanos());
        let tick = move || engine.upgrade().map(|engine| engine.increment_epoch()).is_some();
        let named = thread::Builder::new().name("cutover-epochs".into());
        let thread = named.spawn(move || ticks.run(tick, patience));
        let thread = thread.map_err(|e| EngineError(format!("cannot start the epoch thread: {e}")))?;
        Ok(Self { wakeful, thread: Some(thread) })
    }

    /// For those who ask.
    pub(super) fn wakeful(&self) -> Wakeful {
        self.wakeful.clone()
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.wakeful.0.stop.store(true, Ordering::SeqCst);
        self.wakeful.wake();
        if let Some(thread) = self.thread.take() {
            // The thread ends within a tick and has nothing to say.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn it_rests_when_nobody_is_asked_and_ticks_again_when_somebody_is() {
        let (wakeful, ticks) = (Wakeful::default(), Arc::new(AtomicU64::new(0)));
        let (runs, counts) = (wakeful.clone(), Arc::clone(&ticks));
        let thread = thread::spawn(move || {
            runs.run(
                || {
                    counts.fetch_add(1, Ordering::SeqCst);
                    true
                },
                20,
            );
        });
        let until = |what: &dyn Fn() -> bool| {
            for _ in 0..10_000 {
                if what() {
                    return;
                }
                thread::sleep(TICK);
            }
            panic!("it never came to pass")
        };
        let rests = || wakeful.0.rests.load(Ordering::SeqCst);
        for _ in 0..3 {
            until(&rests);
            let before = ticks.load(Ordering::SeqCst);
            wakeful.asks();
            until(&|| ticks.load(Ordering::SeqCst) > before + 20);
        }
        until(&rests);
        wakeful.0.stop.store(true, Ordering::SeqCst);
        wakeful.wake();
        thread.join().unwrap();
    }
}
