//! Where history comes from: a file of lines, standard input, a store's file, or a running host. All of them are read as
//! lines, page by page, so that a month is never in memory.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tokio::runtime::{self, Runtime};

use crate::cli::{Failed, client::Client};
use cutover_model::{causes::chain, clock::UnixMs};
use cutover_policy_host::history::Mark;
use cutover_store::Store;

/// Checks that are read from a store at once.
const PAGE: u32 = 500;

/// How SQLite's files begin.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// Where history comes from.
#[derive(Debug, Clone)]
pub(in crate::cli) enum Origin {
    /// Standard input.
    Stdin,
    /// A file of lines.
    File(PathBuf),
    /// A store.
    Store {
        /// Its file.
        file: PathBuf,
        /// The migration; the only one that has checks unless it is given.
        migration: Option<String>,
    },
    /// A running host.
    Host {
        /// Its admin plane.
        admin: String,
        /// The migration.
        migration: String,
    },
}

/// From when until before when.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Span {
    /// The first moment.
    pub(in crate::cli) from: UnixMs,
    /// The first that is too late.
    pub(in crate::cli) to: UnixMs,
}

/// Lines as they are read.
pub(in crate::cli) type Lines = Box<dyn BufRead + Send>;

/// Who hands out pages of lines.
trait Pages {
    /// Appends the next page, or nothing at the end.
    fn next(&mut self, page: &mut Vec<u8>) -> Result<(), Failed>;
}

/// Pages as one stream of bytes.
struct Stream<P> {
    pages: P,
    page: Vec<u8>,
    read: usize,
    over: bool,
}

struct StorePages {
    runtime: Runtime,
    store: Store,
    migration: String,
    span: Span,
    after: i64,
    clock: Clock,
}

struct HostPages {
    client: Client,
    path: String,
    after: i64,
    clock: Clock,
}

/// Notices where the host's clock was set back.
#[derive(Default)]
struct Clock(Option<UnixMs>);

/// What paging has to know of a line.
#[derive(Deserialize)]
struct Head {
    id: i64,
    now_ms: UnixMs,
}

impl Origin {
    /// What `--history` says. `admin` is for `host:MIGRATION`, `migration` for a store.
    pub(in crate::cli) fn parse(text: &str, admin: &str, migration: Option<&str>) -> Result<Self, Failed> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(migration) = text.strip_prefix("host:") {
            if migration.is_empty() {
                return Err(Failed::usage("the history `host:` names no migration; write `host:MIGRATION`"));
            }
            return Ok(Self::Host { admin: admin.into(), migration: migration.into() });
        }
        let file = PathBuf::from(text);
        let mut start = Vec::new();
        let begin = File::open(&file).and_then(|file| file.take(SQLITE.len() as u64).read_to_end(&mut start));
        begin.map_err(|e| {
            Failed::usage(format!(
                "cannot read the history `{text}`: {e}; it is a file of lines, a store's file, `-`, or `host:MIGRATION`"
            ))
        })?;
        if start == SQLITE {
            return Ok(Self::Store { file, migration: migration.map(ToOwned::to_owned) });
        }
        Ok(Self::File(file))
    }

    /// Opens it and reads the first page. Lines of files and of standard input are not limited to the span.
    pub(in crate::cli) fn open(&self, span: Span) -> Result<Lines, Failed> {
        match self {
            Self::Stdin => Ok(Box::new(BufReader::new(io::stdin()))),
            Self::File(path) => {
                let file = File::open(path);
                let file = file.map_err(|e| Failed::usage(format!("cannot read `{}`: {e}", path.display())))?;
                Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
            }
            Self::Store { file, migration } => {
                let pages = StorePages::open(file, migration.as_deref(), span)?;
                Ok(Box::new(Stream::begin(pages)?))
            }
            Self::Host { admin, migration } => {
                let to = if span.to.0 == u64::MAX { String::new() } else { format!("&to={}", span.to.0) };
                let path = format!("/api/v1/migrations/{migration}/history?from={}{to}", span.from.0);
                let pages = HostPages { client: Client::new(admin), path, after: 0, clock: Clock::default() };
                Ok(Box::new(Stream::begin(pages)?))
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(file) | Self::Store { file, .. } => f.write_str(&file.display().to_string()),
            Self::Host { migration, .. } => write!(f, "host:{migration}"),
        }
    }
}

impl StorePages {
    fn open(file: &Path, migration: Option<&str>, span: Span) -> Result<Self, Failed> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failed::new(format!("cannot start the runtime: {e}")))?;
        let wrong = |e: &cutover_store::StoreError| Failed::usage(chain(e));
        let store = runtime.block_on(Store::open_to_read(file)).map_err(|e| wrong(&e))?;
        let known = runtime.block_on(store.migrations_with_checks()).map_err(|e| wrong(&e))?;
        let all = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let shown = file.display();
        let migration = match (migration, known.as_slice()) {
            (_, []) => return Err(Failed::usage(format!("`{shown}` has no recorded checks"))),
            (None, [only]) => only.clone(),
            (None, _) => {
                let message = format!("`{shown}` has checks of {all}; say which with `--migration`");
                return Err(Failed::usage(message));
            }
            (Some(name), known) if known.iter().any(|k| k == name) => name.to_owned(),
            (Some(name), _) => {
                return Err(Failed::usage(format!("`{shown}` has no checks of `{name}`; it has those of {all}")));
            }
        };
        Ok(Self { runtime, store, migration, span, after: 0, clock: Clock::default() })
    }
}

impl Pages for StorePages {
    fn next(&mut self, page: &mut Vec<u8>) -> Result<(), Failed> {
        let Span { from, to } = self.span;
        let checks = self.store.checks(&self.migration, from, to, self.after, PAGE);
        let checks = self.runtime.block_on(checks).map_err(|e| Failed::new(chain(&e)))?;
        for check in checks {
            self.after = check.id;
            self.clock.mark(check.now_ms, page).map_err(|e| Failed::new(e.to_string()))?;
            check.write(&mut *page).map_err(|e| Failed::new(e.to_string()))?;
        }
        Ok(())
    }
}

impl Pages for HostPages {
    fn next(&mut self, page: &mut Vec<u8>) -> Result<(), Failed> {
        let lines = self.client.lines(&format!("{}&after={}", self.path, self.after))?;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let head: Head = serde_json::from_slice(line).map_err(|e| {
                Failed::new(format!("the host's answer is not history: {e}; is it of the same version?"))
            })?;
            self.after = head.id;
            self.clock.mark(head.now_ms, page).map_err(|e| Failed::new(e.to_string()))?;
            page.extend_from_slice(line);
        }
        Ok(())
    }
}

impl Clock {
    /// Writes a mark before a check that is earlier than the one before it.
    fn mark(&mut self, now: UnixMs, page: &mut Vec<u8>) -> io::Result<()> {
        match self.0.replace(now) {
            Some(before) if before > now => Mark::clock_set_back(before, now).write(page),
            Some(_) | None => Ok(()),
        }
    }
}

impl<P: Pages> Stream<P> {
    /// Reads the first page at once, so that what is wrong with the source is known as such.
    fn begin(pages: P) -> Result<Self, Failed> {
        let mut stream = Self { pages, page: Vec::new(), read: 0, over: false };
        stream.turn()?;
        Ok(stream)
    }

    fn turn(&mut self) -> Result<(), Failed> {
        self.page.clear();
        self.read = 0;
        self.pages.next(&mut self.page)?;
        self.over = self.page.is_empty();
        Ok(())
    }
}

impl<P: Pages> Read for Stream<P> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl<P: Pages> BufRead for Stream<P> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.read == self.page.len() && !self.over {
            self.turn().map_err(|failed| io::Error::other(failed.message))?;
        }
        Ok(self.page.get(self.read..).unwrap_or_default())
    }

    fn consume(&mut self, bytes: usize) {
        self.read = (self.read + bytes).min(self.page.len());
    }
}
