//! The PROXY protocol, versions 1 and 2: a load balancer says first of all who connected to it. Pure.
//!
//! The format is that of `doc/proxy-protocol.txt` of `HAProxy`. What a header says besides addresses (TLVs) is skipped.
//! **Invariant**: a malformed header never counts as no header: a sender that must send one and does not is not served.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// How version 1 begins.
const WORD: &[u8] = b"PROXY ";

/// The longest header of version 1, with its end.
const LONGEST_LINE: usize = 107;

/// The longest header of version 2 that is read; one may have 64 KiB, and none that says addresses and TLS needs as much.
pub const LONGEST: usize = 4 << 10;

/// The fixed part of version 2.
const FIXED: usize = 16;

/// Both ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The address that connected to the load balancer.
    pub source: SocketAddr,
    /// The address that it connected to.
    pub destination: SocketAddr,
}

/// The versions in which a header can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// As a line of text.
    V1,
    /// As bytes, with a signature before them.
    V2,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A caller connected, with these addresses.
    Proxied(Ends),
    /// No caller connected, or one without addresses: the sender of the header speaks for itself.
    Local,
}

/// Why a connection does not begin with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The connection begins with something else.
    #[error("it does not begin with a header of the PROXY protocol")]
    Missing,
    /// The line of version 1 is malformed.
    #[error("its header of version 1 is malformed")]
    Line,
    /// The bytes of version 2 are malformed.
    #[error("its header of version 2 is malformed")]
    Binary,
    /// The header is longer than the host reads.
    #[error("its header has more than {LONGEST} bytes")]
    TooLong,
}

/// Reads the header that a connection begins with, and says how long it is; none if it is not all here.
///
/// # Errors
/// Why it does not begin with one.
pub fn read(bytes: &[u8]) -> Result<Option<(Said, usize)>, Invalid> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(&SIGNATURE) && !bytes.is_empty() {
        read_binary(bytes)
    } else if begins(WORD) {
        read_line(bytes)
    } else {
        Err(Invalid::Missing)
    }
}

fn read_line(bytes: &[u8]) -> Result<Option<(Said, usize)>, Invalid> {
    let within = bytes.get(..LONGEST_LINE).unwrap_or(bytes);
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        return if within.len() < LONGEST_LINE { Ok(None) } else { Err(Invalid::Line) };
    };
    let line = within.get(WORD.len()..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or(Invalid::Line)?;
    let said = if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        Said::Local
    } else {
        Said::Proxied(addresses(line).ok_or(Invalid::Line)?)
    };
    Ok(Some((said, end + 2)))
}

/// `TCP4 192.0.2.7 10.0.0.1 51000 443`.
fn addresses(line: &str) -> Option<Ends> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let mut address = || {
        let address: IpAddr = words.next()?.parse().ok()?;
        let fits = matches!((family, address), ("TCP4", IpAddr::V4(_)) | ("TCP6", IpAddr::V6(_)));
        fits.then_some(address)
    };
    let (source, destination) = (address()?, address()?);
    let mut port = || {
        let text = words.next()?;
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_plain)
    };
    let (from, to) = (port()?, port()?);
    let ends = Ends { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) };
    words.next().is_none().then_some(ends)
}

fn read_binary(bytes: &[u8]) -> Result<Option<(Said, usize)>, Invalid> {
    let Some([command, family, length @ ..]) =
        bytes.get(SIGNATURE.len()..FIXED).and_then(|s| <&[u8; 4]>::try_from(s).ok())
    else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if FIXED + length > LONGEST {
        return Err(Invalid::TooLong);
    }
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Invalid::Binary),
    };
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(Invalid::Binary);
    }
    let Some(rest) = bytes.get(FIXED..FIXED + length) else { return Ok(None) };
    let said = match family {
        _ if is_local => Said::Local,
        0x11 => Said::Proxied(ends::<4, Ipv4Addr>(rest)?),
        0x21 => Said::Proxied(ends::<16, Ipv6Addr>(rest)?),
        // No addresses, those of sockets of a machine, or of datagrams: nothing that a caller is known by.
        _ => Said::Local,
    };
    Ok(Some((said, FIXED + length)))
}

/// Two addresses, and then two ports.
fn ends<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(bytes: &[u8]) -> Result<Ends, Invalid> {
    let address = |at: usize| {
        let bytes: [u8; N] = bytes.get(at..at + N)?.try_into().ok()?;
        Some(A::from(bytes).into())
    };
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let all = || {
        let source = SocketAddr::new(address(0)?, port(2 * N)?);
        Some(Ends { source, destination: SocketAddr::new(address(N)?, port(2 * N + 2)?) })
    };
    all().ok_or(Invalid::Binary)
}

/// A header that says who connected; without anybody it is the host that speaks.
pub fn write(version: Version, ends: Option<&Ends>) -> Vec<u8> {
    let ends = ends.map(|ends| of_one_family(*ends));
    match version {
        Version::V1 => write_line(ends).into_bytes(),
        Version::V2 => write_binary(ends),
    }
}

/// Both ends as addresses of IPv4, or both as addresses of IPv6.
fn of_one_family(Ends { source, destination }: Ends) -> Ends {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return Ends { source, destination };
    }
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    Ends { source: mapped(source), destination: mapped(destination) }
}

fn write_line(ends: Option<Ends>) -> String {
    let Some(Ends { source, destination }) = ends else { return "PROXY UNKNOWN\r\n".into() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
}

fn write_binary(ends: Option<Ends>) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let Some(Ends { source, destination }) = ends else {
        out.extend([0x20, 0, 0, 0]);
        return out;
    };
    let mut addresses = Vec::new();
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(address) => addresses.extend(address.octets()),
            IpAddr::V6(address) => addresses.extend(address.octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        addresses.extend(port.to_be_bytes());
    }
    out.extend([
        0x21,
        if source.is_ipv4() { 0x11 } else { 0x21 },
        0,
        u8::try_from(addresses.len()).unwrap_or_default(),
    ]);
    out.extend(addresses);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn lines_say_who_connected() {
        let of = |line: &str| read(line.as_bytes()).map(|read| read.unwrap());
        let four = ends("192.0.2.7:51000", "10.0.0.1:443");
        assert_eq!(of("PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\nGET"), Ok((Said::Proxied(four), 41)));
        let six = ends("[2001:db8::7]:0", "[::1]:65535");
        assert_eq!(of("PROXY TCP6 2001:db8::7 ::1 0 65535\r\n"), Ok((Said::Proxied(six), 36)));
        assert_eq!(of("PROXY UNKNOWN\r\n"), Ok((Said::Local, 15)));
        let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        assert_eq!(of(longest), Ok((Said::Local, longest.len())));
        for wrong in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 51000\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 51000 443 1\r\n",
            "PROXY TCP4  192.0.2.7 10.0.0.1 51000 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 51000 65536\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 01 443\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 10.0.0.1 10.0.0.1 1 2\r\n",
            "PROXY UDP4 10.0.0.1 10.0.0.1 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(read(wrong.as_bytes()), Err(Invalid::Line), "{wrong}");
        }
        assert_eq!(read(format!("PROXY {}", "x".repeat(LONGEST_LINE)).as_bytes()), Err(Invalid::Line), "no end");
    }

    #[test]
    fn bytes_say_who_connected_and_what_else_they_say_is_skipped() {
        let of = |bytes: &[u8]| read(bytes).map(|read| read.unwrap());
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0xc7, 0x38, 1, 0xbb];
        let said = Said::Proxied(ends("192.0.2.7:51000", "10.0.0.1:443"));
        assert_eq!(of(&binary(0x21, 0x11, &four)), Ok((said, 28)));
        // A TLV of three bytes.
        let more = [&four[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        assert_eq!(of(&[&binary(0x21, 0x11, &more)[..], b"GET"].concat()), Ok((said, 34)));
        for (command, family, length) in
            [(0x20, 0x11, 12), (0x20, 0, 0), (0x21, 0, 0), (0x21, 0x31, 216), (0x21, 0x12, 12)]
        {
            let bytes = binary(command, family, &vec![0; length]);
            assert_eq!(of(&bytes), Ok((Said::Local, bytes.len())), "{command:x} {family:x}");
        }
        for (command, family, length) in
            [(0x11, 0x11, 12), (0x22, 0x11, 12), (0x21, 0x41, 12), (0x21, 0x13, 12), (0x21, 0x11, 11), (0x21, 0x21, 35)]
        {
            assert_eq!(
                read(&binary(command, family, &vec![0; length])),
                Err(Invalid::Binary),
                "{command:x} {family:x}"
            );
        }
        assert_eq!(read(&binary(0x20, 0, &[0; LONGEST])), Err(Invalid::TooLong));
    }

    #[test]
    fn what_is_no_header_is_seen_at_once() {
        for wrong in [&b"GET / HTTP/1.1\r\n"[..], b"PROXX", b"PRI * HTTP/2.0", b"\r\n\r\nG", b"\x16\x03\x01"] {
            assert_eq!(read(wrong), Err(Invalid::Missing), "{wrong:?}");
        }
        assert_eq!(read(b"P"), Ok(None));
        assert_eq!(read(b"\r\n\r\n\0"), Ok(None));
    }

    #[test]
    fn the_host_speaks_for_itself_and_families_are_never_mixed() {
        assert_eq!(write(Version::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(write(Version::V2, None), binary(0x20, 0, &[]));
        let mixed = ends("192.0.2.7:1", "[2001:db8::1]:2");
        assert_eq!(write(Version::V1, Some(&mixed)), b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n");
        let mapped = ends("[::ffff:192.0.2.7]:1", "10.0.0.1:2");
        assert_eq!(write(Version::V1, Some(&mapped)), b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_part_of_it_is(
            source in any::<SocketAddr>(), destination in any::<SocketAddr>(), v1 in any::<bool>(),
        ) {
            let version = if v1 { Version::V1 } else { Version::V2 };
            let ends = Ends { source, destination };
            let bytes = write(version, Some(&ends));
            let is = of_one_family(ends);
            prop_assert_eq!(read(&bytes), Ok(Some((Said::Proxied(is), bytes.len()))));
            for end in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..end]), Ok(None), "{} of {}", end, bytes.len());
            }
        }

        #[test]
        fn no_bytes_are_too_wild(bytes in prop::collection::vec(any::<u8>(), 0..300), begins in 0..3_u8) {
            let begin = match begins { 0 => &SIGNATURE[..], 1 => WORD, _ => b"" };
            let bytes = [begin, &bytes].concat();
            if let Ok(Some((_, end))) = read(&bytes) {
                prop_assert!(end <= bytes.len());
            }
        }
    }
}
