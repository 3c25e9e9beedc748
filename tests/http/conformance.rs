//! A table of cases: what a caller sends, byte by byte, what an upstream takes for a whole request, and what the caller gets.
//!
//! The cases are in `conformance/*.toml`, and `docs/conformance.md` says how they are written. The same bytes are given to
//! nginx and `HAProxy` where these are installed, and every difference has its reason in the table.

mod http2;
mod peers;
mod websocket;

use std::{fmt::Write as _, fs, sync::Mutex};

use serde_json::Value;

use super::*;
use crate::harness::root;

/// How long nothing has to come until nothing more is expected to come.
const QUIET: Duration = Duration::from_millis(200);

/// What an upstream answers unless the case says otherwise.
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// One case.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    sent: String,
    answer: String,
    saw: String,
    got: String,
    /// Why others do otherwise, by their names.
    differs: Vec<(String, String)>,
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    saw: String,
    got: String,
}

fn table(file: &str) -> Vec<Value> {
    let path = root().join("tests/http/conformance").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let table: toml::Table = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::to_value(&table["case"]).unwrap().as_array().unwrap().clone()
}

fn text(case: &Value, field: &str) -> String {
    case.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// `{fields N}` is that many fields, `{bytes N}` that many letters.
fn filled(text: &str) -> String {
    let mut all = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (what, behind) = after.split_once('}').expect("a closed brace");
        let (what, count) = what.split_once(' ').expect("a kind and a count");
        let count = count.parse::<usize>().unwrap();
        all.push_str(before);
        match what {
            "fields" => (0..count).for_each(|n| write!(all, "x-{n}: 1\r\n").unwrap()),
            "bytes" => all.push_str(&"x".repeat(count)),
            other => panic!("`{other}` is nothing to be filled in"),
        }
        rest = behind;
    }
    all + rest
}

fn cases() -> Vec<Case> {
    let of = |case: &Value| Case {
        name: text(case, "name"),
        sent: filled(&text(case, "sent")),
        answer: filled(&text(case, "answer")),
        saw: text(case, "saw"),
        got: text(case, "got"),
        differs: ["nginx", "haproxy"].iter().map(|peer| ((*peer).to_owned(), text(case, peer))).collect(),
    };
    table("http1.toml").iter().map(of).collect()
}

/// An upstream that notes each whole request, and answers as it is told.
struct Recorder {
    upstream: Upstream,
    seen: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<String>>,
}

impl Recorder {
    async fn start() -> Self {
        let (seen, answer) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<String>>::default());
        let (notes, says) = (Arc::clone(&seen), Arc::clone(&answer));
        let upstream = Upstream::raw(move |mut stream| {
            let (notes, says) = (Arc::clone(&notes), Arc::clone(&says));
            async move {
                while let Some(request) = whole_request(&mut stream).await {
                    notes.lock().unwrap().push(request);
                    let answer = says.lock().unwrap().clone();
                    if answer == "close" || stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { upstream, seen, answer }
    }

    /// What becomes of a case behind this address; `wanted` answers are waited for.
    async fn run(&self, address: SocketAddr, case: &Case, wanted: Option<usize>) -> Outcome {
        self.seen.lock().unwrap().clear();
        *self.answer.lock().unwrap() = if case.answer.is_empty() { OK.to_owned() } else { case.answer.clone() };
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Who refuses the beginning may have closed the connection before the end.
        drop(stream.write_all(case.sent.as_bytes()).await);
        let (mut came, mut buffer, mut is_closed) = (Vec::new(), vec![0; 16 << 10], false);
        loop {
            let enough = wanted.map_or(!came.is_empty(), |wanted| statuses(&came).len() >= wanted);
            let patience = if enough {
                QUIET
            } else if wanted.is_some() {
                PATIENCE
            } else {
                10 * QUIET
            };
            match timeout(patience, stream.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => {
                    is_closed = true;
                    break;
                }
                Ok(Ok(read)) => came.extend_from_slice(&buffer[..read]),
                Err(_elapsed) => break,
            }
        }
        let end = if is_closed { "." } else { "" };
        let saw = self.seen.lock().unwrap().join(" | ");
        Outcome { saw, got: format!("{}{end}", statuses(&came).join(" ")) }
    }
}

/// The statuses of answers, one after the other.
fn statuses(came: &[u8]) -> Vec<String> {
    let came = String::from_utf8_lossy(came);
    let statuses = came.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(1..5)?.strip_prefix(' '));
    statuses.filter(|status| status.bytes().all(|byte| byte.is_ascii_digit())).map(str::to_owned).collect()
}

/// A request as it is noted: method, target, body in brackets, and which fields it has that it should not have; none if it
/// does not come whole.
async fn whole_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let field = |name: &str| {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let found: Vec<_> = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    let mut body = Vec::new();
    if field("transfer-encoding").is_some() {
        chunks(stream, &mut body).await?;
    } else if let Some(length) = field("content-length") {
        let Ok(length) = length.parse::<usize>() else { return Some(format!("a length of `{length}`")) };
        body.resize(length.min(1 << 20), 0);
        stream.read_exact(&mut body).await.ok()?;
    }
    let mut line = head.lines().next()?.rsplit_once(' ')?.0.to_owned();
    if !body.is_empty() {
        write!(line, " [{}]", String::from_utf8_lossy(&body)).unwrap();
    }
    for name in ["upgrade", "http2-settings", "x-secret", "x-cutover-shadow", "transfer_encoding"] {
        if let Some(value) = field(name) {
            write!(line, " {name}={value}").unwrap();
        }
    }
    Some(line)
}

async fn chunks(stream: &mut TcpStream, body: &mut Vec<u8>) -> Option<()> {
    loop {
        let line = line(stream).await?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            while !self::line(stream).await?.is_empty() {}
            return Some(());
        }
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..]).await.ok()?;
        if !self::line(stream).await?.is_empty() {
            return None;
        }
    }
}

async fn line(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// One line for each case that is not as it should be.
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} case(s) are not as they should be:\n{}", wrong.len(), wrong.join("\n"));
}

/// Those of some cases that a host does not do as the table has it.
async fn wrong_of(cases: &[Case]) -> Vec<String> {
    let recorder = Recorder::start().await;
    let pool = "ejection = { failures = 1000 }";
    let migration = "match = [{ host = '*' }]\ndeadline = '30s'";
    let site = Setup { migration, pool, ..Setup::of(&[&recorder.upstream], &[&recorder.upstream]) }.start().await;
    let mut wrong = Vec::new();
    for case in cases {
        let wanted = Outcome { saw: case.saw.clone(), got: case.got.clone() };
        let answers = case.got.trim_end_matches('.').split_whitespace().count();
        // What is to be closed is waited for, too.
        let answers = if case.got.ends_with('.') { answers + 1 } else { answers };
        let came = recorder.run(site.address, case, Some(answers)).await;
        if came != wanted {
            wrong.push(format!("{}: saw `{}`, got `{}`", case.name, came.saw, came.got));
        }
    }
    site.app.shut_down().await;
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_is_as_the_table_has_it() {
    let cases = cases();
    assert!(cases.len() > 100, "the table was read");
    // Not more hosts at once than there is room for: each reserves a part of the address space.
    let wrong = futures_util::future::join_all(cases.chunks(80).map(wrong_of)).await;
    assert_none(&wrong.concat());
}
