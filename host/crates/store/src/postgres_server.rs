//! A PostgreSQL server of our own, for tests and benches: in a temporary folder, at a Unix socket, for as long as the process
//! runs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "without it a test has nothing to say"
)]

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{Store, database};

/// Who the server runs as where the test is root's: it refuses root.
const USER: u32 = 65_534;

/// Where distributions keep the server's programs, which are not on the path.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// Connections of each store.
const CONNECTIONS: u32 = 4;

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    databases: AtomicU32,
    /// Databases are copied from a template, which has only one reader at a time.
    creating: Mutex<()>,
}

/// A new and empty store in PostgreSQL. None where PostgreSQL is not installed, but for CI, where that is an error.
pub async fn store() -> Option<Store> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| tokio::task::block_in_place(|| Server::start(&["fsync=off"])));
    Some(server.as_ref()?.store().await)
}

/// The programs of the newest version that is installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(PROGRAMS).ok()?.filter_map(|entry| entry.ok().map(|entry| entry.path().join("bin")));
    versions.filter(|bin| bin.join("initdb").exists()).max()
}

impl Server {
    /// Starts a server with such settings (`name=value`). None where PostgreSQL is not installed, but for CI, where that is an
    /// error.
    pub fn start(settings: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var_os("CI").is_none(), "PostgreSQL is not installed; the package is `postgresql`");
            #[expect(clippy::print_stderr, reason = "whoever runs the tests has to know what was not tested")]
            {
                eprintln!("PostgreSQL is not installed, so nothing is tested with it; the package is `postgresql`");
            }
            return None;
        };
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(USER), Some(USER)).unwrap();
        }
        let mut initdb = run_as(&programs.join("initdb"), folder.path());
        initdb.args(["--auth=trust", "--username=test", "--encoding=UTF8", "--no-sync", "-D", "data"]);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = run_as(&programs.join("postgres"), folder.path());
        server.args(["-D", "data", "-c", "listen_addresses=", "-c", "max_connections=200", "-k"]).arg(folder.path());
        server.args(settings.iter().flat_map(|setting| ["-c", setting]));
        server.stdout(Stdio::null()).stderr(fs::File::create(folder.path().join("log")).unwrap());
        let (ready, is_ready) = mpsc::channel();
        // The server ends with the thread that started it, and this thread ends with the process.
        thread::spawn(move || {
            let started = server.spawn();
            ready.send(started.is_ok()).unwrap();
            loop {
                thread::park();
            }
        });
        assert!(is_ready.recv().unwrap(), "the server cannot be started");
        let socket = folder.path().join(".s.PGSQL.5432");
        for _ in 0..600 {
            if UnixStream::connect(&socket).is_ok() {
                return Some(Self { folder, databases: AtomicU32::new(0), creating: Mutex::const_new(()) });
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("PostgreSQL does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap());
    }

    /// A store in a new database.
    pub async fn store(&self) -> Store {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        {
            let _turn = self.creating.lock().await;
            let admin = database::postgres(&self.url("postgres"), 1, Duration::from_secs(10)).await.unwrap();
            sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await.unwrap();
            admin.close().await;
        }
        let shown = format!("postgres://localhost/{name}");
        Store::open_postgres(&self.url(&name), &shown, CONNECTIONS).await.unwrap()
    }

    fn url(&self, name: &str) -> String {
        format!("postgres:///{name}?host={}&user=test", self.folder.path().display())
    }
}

/// A program as a user that is not root, which ends with the thread that started it.
fn run_as(program: &Path, home: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        let user = USER.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
    }
    command.arg(program).env("HOME", home).env("LC_ALL", "C").current_dir(home);
    command
}
