//! The log of a host: lines of text or of JSON, on standard error or in a file that can be opened again.
//!
//! Every line has the process id, because two hosts write to one log while one takes over from the other.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use clap::{Args, ValueEnum};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt as _,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Writer, debug_fn},
        time::FormatTime,
    },
    registry::LookupSpan,
};

use super::Failed;
use cutover_model::{clock, environment, escape};

/// Only the host's user reads a log: it has names and reasons.
const MODE: u32 = 0o600;

/// The file that the log goes to, if it goes to one.
static FILE: OnceLock<LogFile> = OnceLock::new();

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the log goes, and how.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct LogTo {
    /// How the log is written. Levels are set by `CUTOVER_LOG`, such as `info` or `warn,cutover_store=debug`.
    #[arg(long, value_enum, value_name = "FORMAT", env = "CUTOVER_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// The file that the log is appended to, instead of standard error; SIGUSR1 opens it again.
    #[arg(long, value_name = "FILE", env = "CUTOVER_LOG_FILE")]
    pub(super) log_file: Option<PathBuf>,
}

struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

/// Where a line goes.
enum Sink {
    Standard(io::Stderr),
    File(&'static LogFile),
}

/// The time and the process of a line.
struct Stamp;

struct JsonLines;

/// The fields of an event.
#[derive(Default)]
struct Fields(Map<String, Value>);

/// Sends the log where it belongs, at `level` unless `CUTOVER_LOG` says otherwise.
pub(super) fn begin(level: &str, to: &LogTo) -> Result<(), Failed> {
    let filter = match environment::log() {
        Some(said) => EnvFilter::builder().parse(&said).map_err(|e| {
            let example = "`info`, or `warn,cutover_store=debug`";
            Failed::usage(format!(
                "`CUTOVER_LOG` is `{said}`, which is no filter: {e}; write a level such as {example}"
            ))
        })?,
        None => EnvFilter::new(level),
    };
    if let Some(path) = &to.log_file {
        let opened = open(path).map_err(|e| Failed::usage(cannot_open(path, &e)))?;
        // It is set once: there is one log.
        drop(FILE.set(LogFile { path: path.clone(), file: Mutex::new(opened) }));
    }
    let colours = to.log_file.is_none() && io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Sink::now);
    match to.log_format {
        LogFormat::Text => log.with_timer(Stamp).with_ansi(colours).fmt_fields(fields()).init(),
        LogFormat::Json => log.event_format(JsonLines).init(),
    }
    Ok(())
}

/// A line of the log is one line, whatever the values in it say.
fn fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    debug_fn(|writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        let value = format!("{value:?}");
        let value = escape::line(&value);
        if field.name() == "message" { write!(writer, "{value}") } else { write!(writer, "{field}={value}") }
    })
    .delimited(" ")
}

/// Opens the log's file again, which somebody else may have moved away. None if the log goes to no file.
pub(super) fn reopen() -> Option<Result<PathBuf, String>> {
    let log = FILE.get()?;
    Some(match open(&log.path) {
        Ok(file) => {
            *log.file.lock() = file;
            Ok(log.path.clone())
        }
        Err(error) => Err(cannot_open(&log.path, &error)),
    })
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}

fn cannot_open(path: &Path, error: &io::Error) -> String {
    format!("cannot open the log `{}`: {error}; check that its folder exists and is writable", path.display())
}

impl Sink {
    fn now() -> Self {
        FILE.get().map_or_else(|| Self::Standard(io::stderr()), Self::File)
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(standard) => standard.write(line),
            Self::File(log) => log.file.lock().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FormatTime for Stamp {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        write!(w, "{} [{}]", clock::unix_ms().rfc3339(), process::id())
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let about = event.metadata();
        let Fields(mut line) = fields;
        for (name, value) in [
            ("timestamp", Value::from(clock::unix_ms().rfc3339())),
            ("level", about.level().as_str().into()),
            ("pid", process::id().into()),
            ("target", about.target().into()),
        ] {
            line.insert(name.into(), value);
        }
        writeln!(writer, "{}", escape::json(&Value::Object(line).to_string()))
    }
}

impl Fields {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_json_has_its_level_its_process_and_every_field_by_name() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().event_format(JsonLines).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(migration = "shop", rows = 3_u64, level = "mine", "a \"line\"\nand another");
        });
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"WARN".into(), &"a \"line\"\nand another".into()));
        assert_eq!(
            (&line["migration"], &line["rows"], &line["pid"]),
            (&"shop".into(), &3.into(), &process::id().into())
        );
    }

    #[test]
    fn a_line_of_text_begins_with_the_time_and_the_process() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_timer(Stamp).with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.finish(), || tracing::info!("here"));
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        assert!(text.contains(&format!("Z [{}]  INFO", process::id())) && text.ends_with("here\n"), "{text}");
    }

    /// What both forms of the log have of an event.
    fn logged(log: impl Fn()) -> [String; 2] {
        let (text, json) = (Kept::default(), Kept::default());
        let to = text.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).fmt_fields(fields());
        tracing::subscriber::with_default(lines.finish(), &log);
        let to = json.clone();
        let lines = tracing_subscriber::fmt().event_format(JsonLines).with_writer(move || to.clone());
        tracing::subscriber::with_default(lines.finish(), &log);
        [text, json].map(|kept| String::from_utf8(kept.0.lock().clone()).unwrap())
    }

    #[test]
    fn a_line_of_the_log_has_its_message_and_its_fields() {
        let [text, _] = logged(|| tracing::warn!(migration = "programs", n = 3, "it is {}", "so"));
        assert!(text.ends_with("it is so migration=\"programs\" n=3\n"), "{text}");
    }

    /// Any text, and often what does something.
    fn hostile() -> impl Strategy<Value = String> {
        let harmful = proptest::sample::select(&escape::HARMFUL[..]);
        proptest::collection::vec(prop_oneof![any::<char>(), harmful], 0..40).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn nobody_writes_a_second_line_into_the_log(text in hostile()) {
            let error = std::io::Error::other(text.clone());
            for shown in logged(|| tracing::error!(text, debug = ?text, %error, "he said {text}")) {
                let one = shown.strip_suffix('\n').unwrap();
                prop_assert!(!one.contains(escape::is_harmful), "{one:?}");
            }
        }
    }
}
