//! WebSockets, both ways (RFC 6455): what one side sends is what the other gets, until both have ended.

use super::*;

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: chat\r\n\r\n";

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: chat\r\n\r\n";

/// A frame: whether it ends its message, its opcode, its payload.
type Message = (bool, u8, Vec<u8>);

fn frame((is_final, opcode, payload): &Message, mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = vec![u8::from(*is_final) << 7 | opcode];
    let bit = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..126 => frame.push(bit | u8::try_from(length).unwrap()),
        length @ 126..65_536 => {
            frame.push(bit | 0x7e);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(bit | 0x7f);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
    frame
}

/// Reads a frame; none at the end.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Message> {
    let first = stream.read_u8().await.ok()?;
    let second = stream.read_u8().await.ok()?;
    let length = match second & 0x7f {
        126 => usize::from(stream.read_u16().await.ok()?),
        127 => usize::try_from(stream.read_u64().await.ok()?).unwrap(),
        short => usize::from(short),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut mask).await.ok()?;
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    payload.iter_mut().enumerate().for_each(|(n, byte)| *byte ^= mask[n % 4]);
    Some((first & 0x80 != 0, first & 0x0f, payload))
}

/// Says what it was asked with, then each frame back as it came, a pong for a ping, and a close for a close.
async fn echo() -> Upstream {
    Upstream::raw(|mut stream| async move {
        let asked = head(&mut stream).await;
        if asked.is_empty() {
            return;
        }
        for field in ["sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13", "upgrade: websocket"]
        {
            assert!(asked.contains(field), "{asked}");
        }
        // The first frame comes with the answer's head, before the caller has said anything.
        let greeting = frame(&(true, 9, b"are you there".to_vec()), None);
        stream.write_all(&[ACCEPTED.as_bytes(), &greeting].concat()).await.unwrap();
        while let Some((is_final, opcode, payload)) = read(&mut stream).await {
            let opcode = if opcode == 9 { 10 } else { opcode };
            if stream.write_all(&frame(&(is_final, opcode, payload), None)).await.is_err() || opcode == 8 {
                return;
            }
        }
        // The caller has ended its side: what is left to say still arrives.
        drop(stream.write_all(&frame(&(true, 1, b"the last word".to_vec()), None)).await);
    })
    .await
}

async fn opened(site: &Site) -> TcpStream {
    let mut stream = site.connect().await;
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let answer = timeout(PATIENCE, head(&mut stream)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    for field in ["sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "sec-websocket-protocol: chat"] {
        assert!(answer.contains(field), "{answer}");
    }
    let greeting = timeout(PATIENCE, read(&mut stream)).await.unwrap().unwrap();
    assert_eq!(greeting, (true, 9, b"are you there".to_vec()));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_every_kind_and_size_arrive_as_they_were_sent() {
    let upstream = echo().await;
    let site = Setup::of(&[&upstream], &[&upstream]).start().await;
    let mut stream = opened(&site).await;
    let of = |size: usize| (0..size).map(|_| fastrand::u8(..)).collect::<Vec<_>>();
    let messages: Vec<Message> = vec![
        (true, 1, "grüß dich".into()),
        (true, 2, of(0)),
        (true, 2, of(125)),
        (true, 2, of(126)),
        (true, 2, of(65_535)),
        (true, 2, of(65_536)),
        (true, 2, of(1 << 20)),
        // In three parts, with a ping between two of them.
        (false, 1, "one ".into()),
        (true, 9, "ping".into()),
        (false, 0, "two ".into()),
        (true, 0, "three".into()),
        (true, 10, "unasked".into()),
    ];
    for message in &messages {
        let bytes = frame(message, Some(fastrand::u32(..).to_be_bytes()));
        let cut = fastrand::usize(..bytes.len());
        stream.write_all(&bytes[..cut]).await.unwrap();
        stream.write_all(&bytes[cut..]).await.unwrap();
        let (is_final, opcode, payload) = timeout(PATIENCE, read(&mut stream)).await.unwrap().unwrap();
        let wanted = if message.1 == 9 { 10 } else { message.1 };
        assert_eq!((is_final, opcode, payload.len()), (message.0, wanted, message.2.len()));
        assert!(payload == message.2);
    }
    // All at once, while nobody reads what comes back.
    let many: Vec<Message> = (0..200).map(|n| (true, 2, of(n * 10))).collect();
    let bytes: Vec<u8> = many.iter().flat_map(|message| frame(message, Some([1, 2, 3, 4]))).collect();
    stream.write_all(&bytes).await.unwrap();
    for message in many {
        assert!(timeout(PATIENCE, read(&mut stream)).await.unwrap().unwrap() == message);
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_pass_with_their_codes_and_end_both_sides() {
    let upstream = echo().await;
    let site = Setup::of(&[&upstream], &[&upstream]).start().await;
    for code in [1000_u16, 1001, 1002, 1009, 1011, 3000, 4999] {
        let mut stream = opened(&site).await;
        let close = (true, 8, [&code.to_be_bytes()[..], b"why"].concat());
        stream.write_all(&frame(&close, Some([9, 8, 7, 6]))).await.unwrap();
        assert_eq!(timeout(PATIENCE, read(&mut stream)).await.unwrap(), Some(close));
        assert_eq!(timeout(PATIENCE, read(&mut stream)).await.unwrap(), None, "the upstream has closed");
        drop(stream);
        eventually("the tunnel to end", async || (site.in_flight(0) == 0).then_some(())).await;
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_has_ended_still_hears_the_other() {
    let upstream = echo().await;
    let site = Setup::of(&[&upstream], &[&upstream]).start().await;
    let mut stream = opened(&site).await;
    stream.write_all(&frame(&(true, 1, "one".into()), Some([0; 4]))).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, read(&mut stream)).await.unwrap(), Some((true, 1, "one".into())));
    assert_eq!(timeout(PATIENCE, read(&mut stream)).await.unwrap(), Some((true, 1, "the last word".into())));
    assert_eq!(timeout(PATIENCE, read(&mut stream)).await.unwrap(), None);
    eventually("the tunnel to end", async || (site.in_flight(0) == 0).then_some(())).await;
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_nobody_asked_for_is_no_protocol() {
    // Changes to HTTP/2, whatever it was asked.
    let upstream =
        Upstream::saying(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n").await;
    let site = Setup::of(&[&upstream], &[&upstream]).start().await;
    for asked in ["", "connection: upgrade\r\nupgrade: h2c\r\n", "connection: upgrade\r\nupgrade: websocket, h2c\r\n"] {
        let mut stream = site.connect().await;
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{asked}\r\n").as_bytes()).await.unwrap();
        let answer = timeout(PATIENCE, head(&mut stream)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 "), "{asked:?}: {answer}");
    }
    site.app.shut_down().await;
}
