//! What a worker writes to its standard error goes to the host's log, bounded in length and in number.

use std::sync::Arc;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::ChildStderr,
    sync::watch,
    time::Duration,
};

use cutover_model::clock::{self, Mono};

/// The longest line that is logged whole, in bytes; what follows is left out.
const LINE: usize = 1_000;

/// Lines of a worker that are logged in a second; what is more is counted. A worker that writes a line for each call
/// may write a few hundred; one that floods must not fill the disk.
const LINES: u32 = 500;

/// Cuts a stream of bytes into lines, without ever keeping more than one short line.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    cut: bool,
}

/// So many lines in a second.
#[derive(Debug, Default)]
struct Allowance {
    second: u64,
    logged: u32,
    left_out: u64,
}

/// Passes a worker's standard error on to the log, line by line, so that it never blocks. Ends with the worker: what
/// it left behind may hold the pipe open.
pub(super) async fn log_lines(stderr: ChildStderr, label: String, mut ended: watch::Receiver<Option<Arc<str>>>) {
    let mut stderr = BufReader::with_capacity(16 << 10, stderr);
    let (mut lines, mut allowance, mut over) = (Lines::default(), Allowance::default(), false);
    loop {
        let length = tokio::select! {
            biased;
            read = stderr.fill_buf() => match read {
                Ok(bytes) if !bytes.is_empty() => {
                    let now = clock::mono();
                    lines.take(bytes, |line| allowance.log(now, line, &label));
                    bytes.len()
                }
                Ok(_) | Err(_) => break,
            },
            _ = ended.wait_for(Option::is_some), if !over => {
                over = true;
                continue;
            }
            // What was written before the end is in the pipe already.
            () = tokio::time::sleep(Duration::from_millis(100)), if over => break,
        };
        stderr.consume(length);
    }
    lines.end(|line| allowance.log(clock::mono(), line, &label));
}

impl Lines {
    fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let (part, ends) = part.strip_suffix(b"\n").map_or((part, false), |line| (line, true));
            let room = LINE - self.line.len();
            self.line.extend_from_slice(part.get(..room).unwrap_or(part));
            self.cut |= part.len() > room;
            if ends {
                self.flush(&mut each);
            }
        }
    }

    /// The last line may lack its end.
    fn end(mut self, mut each: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.flush(&mut each);
        }
    }

    fn flush(&mut self, each: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.line);
        if self.cut {
            each(&format!("{text}.."));
        } else {
            each(&text);
        }
        self.line.clear();
        self.cut = false;
    }
}

impl Allowance {
    fn log(&mut self, now: Mono, line: &str, label: &str) {
        let second = now.nanos() / 1_000_000_000;
        if second != self.second {
            if self.left_out > 0 {
                tracing::warn!(worker = label, left_out = self.left_out, "wrote more lines than are logged");
            }
            *self = Self { second, ..Self::default() };
        }
        if self.logged >= LINES {
            self.left_out += 1;
            return;
        }
        self.logged += 1;
        tracing::warn!(worker = label, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.take(chunk, |line| all.push(line.to_owned()));
        }
        lines.end(|line| all.push(line.to_owned()));
        all
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_at_the_limit() {
        assert_eq!(cut(&[b"one\ntw", b"o\n\nthree"]), ["one", "two", "", "three"]);
        let flood = [b'x'; 5_000];
        let all = cut(&[&flood, &flood, b"\nend\n"]);
        assert_eq!((all[0].len(), all[1].as_str()), (LINE + 2, "end"));
    }

    proptest! {
        /// However the bytes come in pieces, the lines are the same, and no more than a line is kept.
        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..4_000), piece in 1_usize..700) {
            let pieces: Vec<_> = bytes.chunks(piece).collect();
            prop_assert_eq!(cut(&pieces), cut(&[&bytes]));
        }
    }
}
