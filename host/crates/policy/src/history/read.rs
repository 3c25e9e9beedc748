//! Reads history from JSON Lines, one line at a time, and says where what is wrong with it.

use std::io::{self, BufRead, Read as _};

use serde::{Deserialize, de::DeserializeOwned};

use super::{CLOCK_SET_BACK, Line, Mark, Recorded, VERSION};
use cutover_model::{
    clock::UnixMs,
    facts::Batch,
    port::{Check, Phase, Verdict},
    request::Ppm,
};

/// The longest line, in bytes. The longest that a host writes has an hour of batches and is far below.
const MAX_LINE: u64 = 64 << 20;

/// How check lines begin that a host wrote, which spares a look at their type.
const CHECK: &[u8] = br#"{"type":"check","v":1,"#;

/// Why history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read `{file}` after line {line}")]
    Read {
        /// The path of the history's file.
        file: String,
        /// The last line that was read.
        line: u64,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A line is wrong.
    #[error("`{file}`, line {line}: {wrong}")]
    Line {
        /// The path of the history's file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong with the line.
        wrong: Wrong,
    },
}

/// What can be wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// JSON that ends in the middle.
    #[error("is cut off after {bytes} bytes; export the history again, or remove the line")]
    CutOff {
        /// The line's length in bytes.
        bytes: usize,
    },
    /// Longer than a line may be.
    #[error("is longer than {MAX_LINE} bytes, so it is not history")]
    TooLong,
    /// Not JSON at all.
    #[error("is not JSON: {message} (column {column})")]
    NotJson {
        /// What the parser says.
        message: String,
        /// The column where JSON ends to be JSON, from 1.
        column: usize,
    },
    /// JSON of another shape.
    #[error("`{field}`: {message}; the format is in docs/history.md")]
    Field {
        /// The field; `.` for the whole line.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// Written by a newer host.
    #[error("is a check of version {version}, and this program reads up to {VERSION}; use a newer one")]
    Newer {
        /// The version that the line claims.
        version: u32,
    },
    /// Earlier than the line before.
    #[error(
        "is at {}, before the check of the line before it at {}; sort the file by `now_ms`, or put a mark `{CLOCK_SET_BACK}` between them if the host's clock was set back",
        .at.rfc3339(), .before.rfc3339()
    )]
    Unsorted {
        /// The time of this line's check.
        at: UnixMs,
        /// The time of the check before, which is later.
        before: UnixMs,
    },
}

/// The lines of a file, in order; nothing after the first error.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    file: String,
    line: u64,
    buffer: Vec<u8>,
    last: Option<UnixMs>,
    failed: bool,
}

/// What every line has.
#[derive(Deserialize)]
struct Head {
    r#type: String,
    #[serde(default)]
    v: u32,
}

/// A check line, as it is read. Fields beyond these belong to newer hosts and are passed over.
#[derive(Deserialize)]
struct CheckLine {
    #[serde(default)]
    id: i64,
    now_ms: UnixMs,
    phase: Phase,
    stage: u32,
    share: Ppm,
    stage_started_ms: UnixMs,
    #[serde(default)]
    verdict: Option<Verdict>,
    batches: Vec<Batch>,
}

impl<R: BufRead> Lines<R> {
    /// Reads `input`, which is called `file` in errors.
    pub fn new(input: R, file: impl Into<String>) -> Self {
        Self { input, file: file.into(), line: 0, buffer: Vec::new(), last: None, failed: false }
    }

    /// The next line that is not empty; false at the end.
    fn fill(&mut self) -> Result<bool, ReadError> {
        loop {
            self.buffer.clear();
            let read = self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.buffer);
            let bytes = read.map_err(|source| ReadError::Read { file: self.file.clone(), line: self.line, source })?;
            if bytes == 0 {
                return Ok(false);
            }
            self.line += 1;
            if bytes as u64 == MAX_LINE && self.buffer.last() != Some(&b'\n') {
                return Err(self.wrong(Wrong::TooLong));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn read(&mut self) -> Result<Option<Line>, ReadError> {
        if !self.fill()? {
            return Ok(None);
        }
        let line = parse(self.buffer.trim_ascii()).map_err(|wrong| self.wrong(wrong))?;
        match &line {
            Line::Check(Recorded { check, .. }) => {
                let (at, before) = (check.now_ms, self.last.replace(check.now_ms));
                if let Some(before) = before.filter(|before| *before > at) {
                    return Err(self.wrong(Wrong::Unsorted { at, before }));
                }
            }
            Line::Mark(mark) if mark.kind == CLOCK_SET_BACK => self.last = None,
            Line::Mark(_) | Line::Unknown => {}
        }
        Ok(Some(line))
    }

    fn wrong(&self, wrong: Wrong) -> ReadError {
        ReadError::Line { file: self.file.clone(), line: self.line, wrong }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Line, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let line = self.read().transpose();
        self.failed = matches!(line, None | Some(Err(_)));
        line
    }
}

/// Reads one line.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &[u8]) -> Result<Line, Wrong> {
    if line.starts_with(CHECK) {
        return check(line);
    }
    let head: Head = json(line)?;
    match head.r#type.as_str() {
        "check" if head.v > VERSION => Err(Wrong::Newer { version: head.v }),
        "check" if head.v == 0 => Err(Wrong::Field { field: "v".into(), message: "is missing; it is 1".into() }),
        "check" => check(line),
        "mark" => json::<Mark>(line).map(Line::Mark),
        _ => Ok(Line::Unknown),
    }
}

fn check(line: &[u8]) -> Result<Line, Wrong> {
    let CheckLine { id, now_ms, phase, stage, share, stage_started_ms, verdict, batches } = json(line)?;
    let check = Check { now_ms, phase, stage, share, stage_started_ms, batches };
    Ok(Line::Check(Recorded { id, check, verdict }))
}

/// Reads JSON; if that fails, once more for the path of the field, which costs too much to keep track of always.
fn json<T: DeserializeOwned>(line: &[u8]) -> Result<T, Wrong> {
    serde_json::from_slice(line).map_err(|error| {
        let message = error.to_string();
        // The parser counts lines of its own.
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        match error.classify() {
            serde_json::error::Category::Eof => Wrong::CutOff { bytes: line.len() },
            serde_json::error::Category::Data => Wrong::Field { field: field::<T>(line), message },
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
                Wrong::NotJson { message, column: error.column() }
            }
        }
    })
}

fn field<T: DeserializeOwned>(line: &[u8]) -> String {
    let read = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(line));
    read.err().map_or_else(|| ".".into(), |error| error.path().to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A check line with a batch.
    fn line(now_ms: u64) -> String {
        let calls = r#"{"requests":5,"errors":1,"timeouts":0,"failed_over":0,"units":5,"unit_errors":1,"latency":[[300,4],[310,1]]}"#;
        let members = r#"{"wanted":2,"ready":2,"failures":0,"queued":0,"rss_bytes":1000}"#;
        format!(
            r#"{{"type":"check","v":1,"id":7,"now_ms":{now_ms},"phase":"ramping","stage":1,"share":50000,"stage_started_ms":10,"verdict":"healthy","batches":[{{"start_ms":1000,"duration_ms":1000,"share":50000,"operations":[{{"operation":"execute","class":"read","v1":{calls},"v2":{calls},"shadow":{calls}}}],"v1":{members},"v2":{members},"comparisons":{{"same":1,"ignored":0,"different":0,"incomparable":0}},"gauges":[{{"name":"host.cpu-ppm","value":5}}]}}]}}"#
        )
    }

    fn all(text: &str) -> Result<Vec<Line>, String> {
        Lines::new(text.as_bytes(), "h.jsonl").map(|line| line.map_err(|e| e.to_string())).collect()
    }

    #[test]
    fn lines_are_written_as_they_are_read() {
        let text =
            format!("{}\n{}\n", line(2_000), r#"{"type":"mark","at":2500,"kind":"fault","note":"the cache was off"}"#);
        let mut written = Vec::new();
        for line in all(&text).unwrap() {
            match line {
                Line::Check(recorded) => recorded.write(&mut written).unwrap(),
                Line::Mark(mark) => mark.write(&mut written).unwrap(),
                Line::Unknown => panic!("both are known"),
            }
        }
        assert_eq!(String::from_utf8(written).unwrap(), text);
    }

    #[test]
    fn fields_in_another_order_and_from_newer_hosts_are_read() {
        let text = line(2_000).replacen(r#"{"type":"check","v":1,"#, r#"{"new":{"a":[1]},"v":1, "type": "check","#, 1);
        assert_eq!(all(&text), all(&line(2_000)));
        assert_eq!(all("\n {\"type\":\"weather\",\"rain\":true}\n\n"), Ok(vec![Line::Unknown]));
        let least = r#"{"type":"check","v":1,"now_ms":1,"phase":"shadow","stage":0,"share":0,"stage_started_ms":0,"batches":[]}"#;
        assert!(matches!(&all(least).unwrap()[..], [Line::Check(Recorded { id: 0, verdict: None, .. })]));
    }

    #[test]
    fn wrong_lines_are_named_with_what_is_wrong() {
        let good = line(2_000);
        let wrong = |line: String| all(&format!("{good}\n{line}\n")).unwrap_err();
        insta::assert_snapshot!(wrong(good[..400].to_owned()), @"`h.jsonl`, line 2: is cut off after 400 bytes; export the history again, or remove the line");
        insta::assert_snapshot!(wrong(good.replace(r#""ready":2"#, r#""ready":"two""#)), @r#"`h.jsonl`, line 2: `batches[0].v1.ready`: invalid type: string "two", expected u32; the format is in docs/history.md"#);
        insta::assert_snapshot!(wrong(good.replace(r#""stage":1,"#, "")), @"`h.jsonl`, line 2: `.`: missing field `stage`; the format is in docs/history.md");
        insta::assert_snapshot!(wrong(good.replace("healthy", "well")), @"`h.jsonl`, line 2: `verdict`: unknown variant `well`, expected one of `healthy`, `hold`, `warn`, `roll-back`; the format is in docs/history.md");
        insta::assert_snapshot!(wrong(good.replace(r#""v":1"#, r#""v":2"#)), @"`h.jsonl`, line 2: is a check of version 2, and this program reads up to 1; use a newer one");
        insta::assert_snapshot!(wrong("now,phase".into()), @"`h.jsonl`, line 2: is not JSON: expected ident (column 2)");
        insta::assert_snapshot!(wrong("[]".into()), @"`h.jsonl`, line 2: `.`: invalid length 0, expected struct Head with 2 elements; the format is in docs/history.md");
    }

    #[test]
    fn times_go_forward_but_where_a_mark_says_that_the_clock_was_set_back() {
        let (early, late) = (line(1_000), line(2_000));
        assert_eq!(all(&format!("{early}\n{early}\n{late}")).unwrap().len(), 3);
        let wrong = all(&format!("{early}\n{late}\n{early}\n{late}")).unwrap_err();
        assert!(wrong.starts_with("`h.jsonl`, line 3: is at 1970-01-01T00:00:01.000Z, before"), "{wrong}");
        let mut mark = Vec::new();
        Mark::clock_set_back(UnixMs(2_000), UnixMs(1_000)).write(&mut mark).unwrap();
        let marked = format!("{early}\n{late}\n{}{early}", String::from_utf8(mark).unwrap());
        assert_eq!(all(&marked).unwrap().len(), 4);
    }

    #[test]
    fn nothing_is_read_after_an_error() {
        let mut lines = Lines::new("{}\n{}\n".as_bytes(), "h.jsonl");
        assert!(lines.next().is_some_and(|line| line.is_err()) && lines.next().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..900_usize) {
            drop(parse(&bytes));
            let good = line(2_000);
            if cut < good.len() {
                prop_assert_eq!(parse(&good.as_bytes()[..cut]).err(), Some(Wrong::CutOff { bytes: cut }));
            }
        }
    }
}
