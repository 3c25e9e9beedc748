//! Frames of HTTP/2, written by hand, over TCP and over TLS.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as literals that nobody keeps, without Huffman (RFC 7541, 6.2.2).
fn block(fields: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // All are shorter than what fits into seven bits.
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The status that a block begins with (RFC 7541, appendices A and B).
fn status(block: &[u8]) -> String {
    let known = ["200", "204", "206", "304", "400", "404", "500"];
    match block {
        [first @ 0x88..=0x8e, ..] => known[usize::from(first - 0x88)].to_owned(),
        // A size of the table comes first.
        [0x20..=0x3f, rest @ ..] => status(rest),
        [0x48 | 0x08, length, text @ ..] if length & 0x80 == 0 => String::from_utf8_lossy(&text[..3]).into_owned(),
        [0x48 | 0x08, length, text @ ..] => digits(&text[..usize::from(length & 0x7f)]),
        other => format!("{other:x?}"),
    }
}

/// Digits in Huffman's code: 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let (mut at, mut text) = (0, String::new());
    while text.len() < 3 && at + 5 <= bits.len() {
        let five = bits[at..at + 5].iter().fold(0, |n, bit| n << 1 | bit);
        if five < 3 {
            text.push(char::from(b'0' + five));
            at += 5;
        } else {
            let six = bits.get(at..at + 6).map_or(0, |bits| bits.iter().fold(0, |n, bit| n << 1 | bit));
            text.push(char::from(b'3' + six.wrapping_sub(0b01_1001)));
            at += 6;
        }
    }
    text
}

/// What comes for the first stream: a status, `reset N` or `goaway N`.
async fn outcome(stream: &mut (impl AsyncRead + Unpin)) -> String {
    loop {
        let mut head = [0; 9];
        match timeout(PATIENCE, stream.read_exact(&mut head)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return "closed".into(),
            Err(_elapsed) => return "nothing".into(),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            1 => return status(&payload),
            3 => return format!("reset {}", number(0)),
            7 => return format!("goaway {}", number(4)),
            _ => {}
        }
    }
}

fn fields(case: &Value) -> Vec<(String, String)> {
    let pair = |pair: &Value| {
        let text = |n: usize| filled(pair[n].as_str().unwrap());
        (text(0), text(1))
    };
    let mut fields: Vec<_> = case["fields"].as_array().unwrap().iter().map(pair).collect();
    let more = case.get("more").and_then(Value::as_u64).unwrap_or(0);
    fields.extend((0..more).map(|n| (format!("x-{n}"), "1".to_owned())));
    fields
}

/// The bytes of a case, after the beginning of a connection.
fn sent(case: &Value) -> Vec<u8> {
    let data: Vec<_> = case.get("data").and_then(Value::as_array).cloned().unwrap_or_default();
    let ends = case.get("ends").and_then(Value::as_bool).unwrap_or(true);
    let flags = END_HEADERS | if data.is_empty() && ends { END_STREAM } else { 0 };
    let mut sent = frame(1, flags, 1, &block(&fields(case)));
    for (n, part) in data.iter().enumerate() {
        let is_last = n + 1 == data.len() && ends;
        sent.extend(frame(0, if is_last { END_STREAM } else { 0 }, 1, part.as_str().unwrap().as_bytes()));
    }
    if let Some(reason) = case.get("reset").and_then(Value::as_u64) {
        sent.extend(frame(3, 0, 1, &u32::try_from(reason).unwrap().to_be_bytes()));
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_as_the_table_has_it_with_and_without_tls() {
    let folder = TempDir::new().unwrap();
    let tls_lines = tls::certify(folder.path());
    let mut wrong = Vec::new();
    for over_tls in [false, true] {
        let recorder = Recorder::start().await;
        *recorder.answer.lock().unwrap() = OK.to_owned();
        let http = if over_tls { tls_lines.as_str() } else { "" };
        let setup = Setup {
            http,
            pool: "ejection = { failures = 1000 }",
            ..Setup::of(&[&recorder.upstream], &[&recorder.upstream])
        };
        let site = setup.start().await;
        for case in table("http2.toml") {
            recorder.seen.lock().unwrap().clear();
            let bytes = [PREFACE, &SETTINGS, &sent(&case)].concat();
            let mut tcp = site.connect().await;
            let got = if over_tls {
                let connector = tls::caller(folder.path(), "h2");
                let mut stream = connector.connect(tls::NAME.try_into().unwrap(), tcp).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                stream.flush().await.unwrap();
                if case.get("reset").is_some() { String::new() } else { outcome(&mut stream).await }
            } else {
                tcp.write_all(&bytes).await.unwrap();
                if case.get("reset").is_some() { String::new() } else { outcome(&mut tcp).await }
            };
            eventually("nothing to be under way", async || (site.in_flight(0) == 0).then_some(())).await;
            let saw = recorder.seen.lock().unwrap().join(" | ");
            if (&saw, &got) != (&text(&case, "saw"), &text(&case, "got")) {
                wrong.push(format!("{} (TLS: {over_tls}): saw `{saw}`, got `{got}`", text(&case, "name")));
            }
        }
        site.app.shut_down().await;
    }
    assert_none(&wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_of_http_2_are_sent_what_callers_of_any_version_sent() {
    let (seen, mut requests) = mpsc::channel(64);
    let upstream = Upstream::serving(true, move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let lengths = request.headers().get_all("content-length").iter().count();
            let line = format!("{} {} lengths={lengths}", request.method(), request.uri());
            let Ok(body) = request.into_body().collect().await else { return Ok(whole(StatusCode::OK, "a part")) };
            seen.send(format!("{line} [{}]", String::from_utf8_lossy(&body.to_bytes()))).await.unwrap();
            Ok(whole(StatusCode::OK, "ok"))
        }
    })
    .await;
    let site = Setup { pool: "http2 = true", ..Setup::of(&[&upstream], &[&upstream]) }.start().await;
    for (sent, saw) in [
        ("GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "GET http://x/a lengths=0 []"),
        (
            "GET /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "GET http://x/a lengths=0 [hi]",
        ),
        (
            "PUT /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi",
            "PUT http://x/a lengths=1 [hi]",
        ),
        (
            "GET //a/%2e HTTP/1.1\r\nhost: x\r\nconnection: close, x-secret\r\nx-secret: 1\r\n\r\n",
            "GET http://x//a/%2e lengths=0 []",
        ),
    ] {
        let reply = site.raw(sent).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{sent}: {reply}");
        assert_eq!(requests.recv().await.unwrap(), saw);
    }
    site.app.shut_down().await;
}
