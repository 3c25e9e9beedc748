//! Pools of real processes, alone: without routes, policies or a listener.

mod errors;
mod faults;
mod life;
mod measured;
mod size;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cutover::config::{Config, PlaneConfig};
use cutover_model::{
    clock,
    request::{Answer, Failure},
};
use cutover_policy_host::{evaluation::EvaluationQueue, slot::Slots};
use cutover_traffic::pool::{
    Call, PoolSpec, WorkerPool,
    journal::{Journal, Keep},
    spawner::Spawner,
    workers::WorkerView,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};

use crate::harness::{PATIENCE, Setup, binary, eventually, root};

/// A pool with the folder that its workers look into.
struct Pool {
    inner: WorkerPool,
    folder: TempDir,
    journal: Arc<Journal>,
    /// Keeps what the journal hands over, by saying that it did.
    _keeping: JoinSet<()>,
}

impl Pool {
    /// A pool of workers with these flags and settings, open and whole.
    async fn start(flags: &[&str], settings: &str) -> Self {
        let pool = Self::closed(flags, settings);
        pool.inner.open();
        pool.inner.ready_by(clock::mono() + PATIENCE).await.unwrap();
        pool
    }

    /// The same, not yet open.
    fn closed(flags: &[&str], settings: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let spec = spec(folder.path(), flags, settings);
        let spawner = Spawner::start(binary(), Handle::current()).unwrap();
        let (journal, keeper) = Journal::new([]);
        let journal = Arc::new(journal);
        let (trials, _queues) = EvaluationQueue::new(Arc::<Slots>::default());
        let mut keeping = JoinSet::new();
        keeping.spawn(keep(keeper));
        let inner = WorkerPool::new(spec, spawner, Arc::clone(&journal), trials);
        Self { inner, folder, journal, _keeping: keeping }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a file that workers look for.
    fn touch(&self, name: &str) {
        std::fs::write(self.file(name), "").unwrap();
    }

    /// Lines that workers wrote, without their pids.
    fn traced(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file("trace")).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    async fn call(&self, operation: &str, session: Option<&str>, arguments: &Value) -> Result<Value, Failure> {
        self.call_within(Duration::from_secs(10), operation, session, arguments).await
    }

    async fn call_within(
        &self,
        limit: Duration,
        operation: &str,
        session: Option<&str>,
        arguments: &Value,
    ) -> Result<Value, Failure> {
        let arguments: Map<String, Value> = arguments.as_object().unwrap().clone();
        let session = session.map(Arc::from);
        let deadline = clock::mono() + limit;
        let call = Call { operation, arguments: &arguments, session: session.as_ref(), deadline };
        self.inner.call(call).await.map(|answer| match answer {
            Answer::Success(result) | Answer::Refused(result) => serde_json::from_str(result.get()).unwrap(),
        })
    }

    /// The state of a session on the worker that serves it.
    async fn get(&self, session: &str) -> Value {
        self.call("get", Some(session), &json!({})).await.unwrap()
    }

    /// Puts something into a session on whatever worker serves it next.
    async fn put(&self, session: &str, key: &str, value: &str) {
        let arguments = json!({ "key": key, "value": value }).as_object().unwrap().clone();
        let key = Some(key.to_owned());
        self.journal.record(&session.into(), &"put".into(), Arc::new(arguments), key, false).await.unwrap();
    }

    fn states(&self) -> Vec<&'static str> {
        self.inner.workers().iter().map(|w| w.state.name()).collect()
    }

    /// Waits until some worker is as it should be.
    async fn until(&self, what: &str, is: impl Fn(&WorkerView) -> bool) -> WorkerView {
        eventually(what, async || self.inner.workers().into_iter().find(|w| is(w))).await
    }

    /// Waits until there are so many workers that can take calls, and none that did before `killed`.
    async fn whole_without(&self, killed: u32) {
        let whole = async || {
            let members = self.inner.members_now();
            (members.ready >= members.wanted && !self.inner.pids().contains(&killed)).then_some(())
        };
        eventually("a whole pool", whole).await;
    }
}

async fn keep(mut keeper: mpsc::Receiver<Keep>) {
    while let Some(Keep { kept, .. }) = keeper.recv().await {
        kept.send(Ok(())).unwrap();
    }
}

/// What a configuration makes of these settings.
fn spec(folder: &Path, flags: &[&str], settings: &str) -> PoolSpec {
    let worker = root().join("tests/pool/worker.py").display().to_string();
    let flags: Vec<_> = flags
        .iter()
        .map(|flag| match flag.split_once('=') {
            Some((flag, file)) => format!("'--{flag}', '{}'", folder.join(file).display()),
            None => format!("'--{flag}'"),
        })
        .collect();
    let command = [vec!["'python3'".to_owned(), format!("'{worker}'")], flags].concat().join(", ");
    let v2 = format!("mode = 'concurrent'\ncommand = [{command}]\n{settings}");
    let text = Setup { v2, ..Setup::default() }.text(folder, (0, 0));
    let config = Config::parse(&text, folder, &[]).unwrap_or_else(|e| panic!("{e}"));
    let PlaneConfig::Operations(pools) = config.migrations.into_iter().next().unwrap().plane else {
        panic!("these are worker pools");
    };
    pools.v2
}

fn kill(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
