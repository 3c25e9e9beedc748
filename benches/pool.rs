//! What a pool of workers costs and gains: a pooled call beside a bare round trip through the pipes of the same worker,
//! and pools of many workers beside one that is serialized.
//!
//! Prints tables. Bare and pooled calls take turns, some hundred at a time, so that what disturbs the machine disturbs
//! both. Whether a caller and its worker share a core decides more than all else, and where they are free the kernel
//! chooses for each pair on its own; so both are bound to cores, once to the same and once to two.
//! `cargo bench --bench pool -- [--calls=N]`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench talks to a terminal")]

#[path = "fixtures.rs"]
mod fixtures;

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use cutover::config::{Config, PlaneConfig};
use cutover_model::{
    clock::{self, Mono},
    request::{Answer, Class},
};
use cutover_policy_host::{evaluation::EvaluationQueue, slot::Slots};
use cutover_traffic::pool::{
    Call, WorkerPool,
    journal::{Journal, Keep},
    process::Worker,
    spawner::Spawner,
};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde_json::{Map, Value, json};
use tokio::{
    runtime::{Handle, Runtime},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::task::TaskTracker;

/// Calls of a row.
const CALLS: usize = 20_000;

/// The calls of a run that only shows that everything works.
const SHORT: usize = 400;

/// Calls of one kind, one after the other, until it is the other's turn.
const TURN: usize = 200;

/// Callers at once.
const CALLERS: usize = 32;

/// How long a call waits that stands for work.
const WAIT: Duration = Duration::from_millis(10);

/// The session that calls belong to.
const SESSION: &str = "bench";

fn main() {
    let calls = calls();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cores = sched_getaffinity(None).unwrap();
    let mut each = (0..CpuSet::MAX_CPU).filter(|n| cores.is_set(*n));
    let caller = each.next().unwrap();
    overhead(&runtime, calls, "caller and worker on one core", (caller, caller));
    if let Some(other) = each.next() {
        overhead(&runtime, calls, "caller and worker on two cores", (caller, other));
    }
    throughput(&runtime, calls / 10);
}

fn calls() -> usize {
    let given = std::env::args().find_map(|arg| arg.strip_prefix("--calls=").map(|n| n.parse().unwrap()));
    // `cargo test --benches` does not say `--bench`.
    let short = !std::env::args().any(|arg| arg == "--bench");
    given.unwrap_or(if short { SHORT } else { CALLS })
}

/// Calls that do next to nothing, through bare pipes and through a pool. All callers are the same thread, as all
/// requests of a connection are served by one; the pool lives in a runtime of its own.
fn overhead(runtime: &Runtime, calls: usize, what: &str, (caller, core): (usize, usize)) {
    let mut bare = Bare::start();
    let program = program(0);
    bare.call("create_program", &program);
    let ingress = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Its workers die with it.
    let spawner = runtime.block_on(async { spawner() });
    let (pool, mut alone) = runtime.block_on(async {
        let pool = pool("concurrent", 1, &program).await;
        let mut worker = Worker::start(&spawner, &pool.spec().command, "alone", &TaskTracker::new()).await.unwrap();
        worker.call("create_program", &program, Some(SESSION), deadline()).await.unwrap();
        (pool, Some(worker))
    });
    for pid in pool.pids().into_iter().chain([bare.child.id(), alone.as_ref().unwrap().pid()]) {
        bind(Pid::from_raw(pid.try_into().unwrap()), &[core]);
    }
    let everywhere = sched_getaffinity(None).unwrap();
    bind(None, &[caller]);
    let arguments = arguments();
    let (mut bare_us, mut alone_us) = (Vec::new(), Vec::new());
    let (mut pooled_us, mut served_us) = (Vec::new(), Vec::new());
    for _ in 0..calls.div_ceil(TURN) {
        for _ in 0..TURN {
            bare_us.push(timed(|| bare.call("execute", &arguments)));
        }
        let (worker, mut took) = ingress.block_on(turn_alone(alone.take().unwrap()));
        alone = Some(worker);
        alone_us.append(&mut took);
        let (mut pooled, mut served) = ingress.block_on(turn(pool.clone()));
        pooled_us.append(&mut pooled);
        served_us.append(&mut served);
    }
    sched_setaffinity(None, &everywhere).unwrap();
    runtime.block_on(pool.shut_down());
    println!(
        "{:<44} {:>9} {:>9} {:>9} {:>8}",
        format!("{calls} calls, {what}"),
        "p50 us",
        "p90 us",
        "p99 us",
        "to bare"
    );
    let least = quantile(&mut bare_us, 50);
    for (name, mut all) in [
        ("bare pipes, blocking", bare_us),
        ("the same worker, no pool", alone_us),
        ("a pooled call", pooled_us),
        ("with breaker and retries", served_us),
    ] {
        let ratio = quantile(&mut all, 50) / least;
        println!(
            "{name:<44} {:>9.1} {:>9.1} {:>9.1} {ratio:>8.2}",
            quantile(&mut all, 50),
            quantile(&mut all, 90),
            quantile(&mut all, 99)
        );
    }
    println!();
}

/// Binds a process, or this thread, to cores.
fn bind(pid: Option<Pid>, cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(pid, &set).unwrap();
}

/// A turn of calls to a worker without a pool.
async fn turn_alone(mut worker: Worker) -> (Worker, Vec<Duration>) {
    let mut task = JoinSet::new();
    task.spawn(async move {
        let (arguments, mut all) = (arguments(), Vec::new());
        for _ in 0..TURN {
            let started = clock::mono();
            worker.call("execute", &arguments, Some(SESSION), deadline()).await.unwrap();
            all.push(clock::mono().since(started));
        }
        (worker, all)
    });
    task.join_next().await.unwrap().unwrap()
}

/// A turn of pooled calls, and one of those with breaker and retries, in a task as requests are.
async fn turn(pool: WorkerPool) -> (Vec<Duration>, Vec<Duration>) {
    let mut task = JoinSet::new();
    task.spawn(async move {
        let (arguments, session) = (arguments(), session());
        let (mut pooled, mut served) = (Vec::new(), Vec::new());
        for _ in 0..TURN {
            let started = clock::mono();
            pool.call(call(&arguments, &session)).await.unwrap();
            pooled.push(clock::mono().since(started));
        }
        for _ in 0..TURN {
            let started = clock::mono();
            pool.serve(call(&arguments, &session), Class::Read).await.result.unwrap();
            served.push(clock::mono().since(started));
        }
        (pooled, served)
    });
    task.join_next().await.unwrap().unwrap()
}

/// Calls that wait, many at once, through pools of different sizes.
fn throughput(runtime: &Runtime, calls: usize) {
    println!(
        "{:<44} {:>9} {:>9} {:>8}",
        format!("{calls} calls that wait {WAIT:?}, {CALLERS} at once"),
        "calls/s",
        "to V1",
        "to N"
    );
    let program = program(u64::try_from(WAIT.as_millis()).unwrap());
    let mut serialized = None;
    for (mode, workers) in [("serialized", 1), ("concurrent", 2), ("concurrent", 4), ("concurrent", 8)] {
        let (pool, started) = runtime.block_on(async { (pool(mode, workers, &program).await, clock::mono()) });
        // The serialized pool takes its time: as many calls take as long as everything else together.
        let each = if mode == "serialized" { calls / 4 } else { calls }.div_ceil(CALLERS);
        runtime.block_on(many(&pool, &program, each));
        let per_second = float(each * CALLERS) / clock::mono().since(started).as_secs_f64();
        runtime.block_on(pool.shut_down());
        let base = *serialized.get_or_insert(per_second);
        let ratio = per_second / base;
        println!("{:<44} {per_second:>9.0} {ratio:>9.2} {:>8.3}", format!("{mode}, {workers}"), ratio / float(workers));
    }
}

/// So many calls by each of the callers, each in a session of its own.
async fn many(pool: &WorkerPool, program: &Map<String, Value>, calls: usize) {
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let (pool, program) = (pool.clone(), program.clone());
        callers.spawn(async move {
            let session: Arc<str> = format!("caller-{n}").into();
            let deadline = clock::mono() + Duration::from_mins(10);
            let create = Call { operation: "create_program", arguments: &program, session: Some(&session), deadline };
            pool.call(create).await.unwrap();
            for _ in 0..calls {
                let arguments = arguments();
                pool.call(Call { deadline, ..call(&arguments, &session) }).await.unwrap();
            }
        });
    }
    callers.join_all().await;
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = clock::mono();
    drop(work());
    clock::mono().since(started)
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// In microseconds.
fn quantile(all: &mut [Duration], percent: usize) -> f64 {
    all.sort_unstable();
    all.get(all.len() * percent / 100).unwrap().as_secs_f64() * 1e6
}

fn session() -> Arc<str> {
    SESSION.into()
}

fn call<'a>(arguments: &'a Map<String, Value>, session: &'a Arc<str>) -> Call<'a> {
    Call { operation: "execute", arguments, session: Some(session), deadline: deadline() }
}

fn deadline() -> Mono {
    clock::mono() + Duration::from_mins(1)
}

/// The thread that starts workers, under the guard that was built with this bench.
fn spawner() -> Spawner {
    let here = std::env::current_exe().unwrap();
    let guard = here.parent().unwrap().parent().unwrap().join("cutover");
    assert!(guard.exists(), "build the host first: cargo build --release -p cutover");
    Spawner::start(guard, Handle::current()).unwrap()
}

fn program(wait_ms: u64) -> Map<String, Value> {
    let program = json!({
        "program_id": "greet",
        "signature": { "inputs": [{ "name": "name" }], "outputs": [{ "name": "greeting" }] },
        "wait_ms": wait_ms,
    });
    program.as_object().unwrap().clone()
}

fn arguments() -> Map<String, Value> {
    json!({ "program_id": "greet", "inputs": { "name": "ada" } }).as_object().unwrap().clone()
}

fn worker() -> PathBuf {
    fixtures::root().join("examples/programs/worker.py")
}

/// A pool that is whole, and whose session has the program.
async fn pool(mode: &str, workers: usize, program: &Map<String, Value>) -> WorkerPool {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| fixtures::root().join(path).display().to_string();
    let text = format!(
        "[host]\ncomponents = '{}'\n[migrations.bench.operations]\nexecute = {{ class = 'read' }}\n\
         [migrations.bench.v1]\nmode = 'serialized'\nworkers = 1\ncommand = ['true']\n\
         [migrations.bench.v2]\nmode = '{mode}'\nworkers = {workers}\ncommand = ['python3', '{}']\n\
         [migrations.bench.policies]\nrouting = '{}'\nrollback = '{}'\nstages = '{}'\n",
        at("target/components"),
        worker().display(),
        at("policies/sticky-share"),
        at("policies/thresholds"),
        at("policies/standard-stages"),
    );
    let config = Config::parse(&text, folder.path(), &[]).unwrap();
    let PlaneConfig::Operations(pools) = config.migrations.into_iter().next().unwrap().plane else {
        unreachable!("these are worker pools");
    };
    let mut spec = pools.v2;
    spec.command.directory = fixtures::root();
    let (journal, keeper) = Journal::new([]);
    let (trials, _queues) = EvaluationQueue::new(Arc::<Slots>::default());
    let pool = WorkerPool::new(spec, spawner(), Arc::new(journal), trials);
    drop::<mpsc::Receiver<Keep>>(keeper);
    pool.open();
    pool.ready_by(clock::mono() + Duration::from_mins(1)).await.unwrap();
    let session = session();
    let create = Call { operation: "create_program", ..call(program, &session) };
    assert!(matches!(pool.call(create).await.unwrap(), Answer::Success(_)));
    pool
}

/// A worker at the end of bare pipes, without a timeout, a queue or a second thread.
struct Bare {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    id: u64,
}

impl Bare {
    fn start() -> Self {
        let mut command = Command::new("python3");
        command.arg(worker()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, stdout, id: 0 }
    }

    fn call(&mut self, command: &str, arguments: &Map<String, Value>) -> Value {
        self.id += 1;
        let mut args = arguments.clone();
        args.insert("session_id".into(), SESSION.into());
        let body = json!({ "id": self.id, "command": command, "args": args }).to_string();
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body.as_bytes());
        self.stdin.write_all(&frame).unwrap();
        let mut header = [0; 4];
        self.stdout.read_exact(&mut header).unwrap();
        let mut reply = vec![0; u32::from_be_bytes(header) as usize];
        self.stdout.read_exact(&mut reply).unwrap();
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        assert_eq!(reply.get("success"), Some(&Value::Bool(true)), "{reply}");
        reply
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
