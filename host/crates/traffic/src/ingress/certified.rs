//! What upstreams are told of the certificates of callers, which TLS has verified by then.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::header::HeaderName;
use rustls::pki_types::CertificateDer;

use crate::proxy::headers::Vouched;

/// The attributes that have names (RFC 4514, 3, and the one for mail that many still use); others are numbers.
const NAMES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The fields in which upstreams are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFields {
    /// The subject, as RFC 4514 writes it.
    pub subject: Option<HeaderName>,
    /// The certificate itself, as `Client-Cert` of RFC 9440 has it.
    pub certificate: Option<HeaderName>,
}

impl CertificateFields {
    /// Whether upstreams are told nothing.
    pub const fn is_empty(&self) -> bool {
        self.subject.is_none() && self.certificate.is_none()
    }

    /// What is said of a caller with this certificate, or without one. All fields are there, so that a caller cannot
    /// set one.
    pub(super) fn of(&self, certificate: Option<&CertificateDer<'_>>) -> Vouched {
        let subject = self.subject.iter().map(|name| (name.clone(), certificate.and_then(subject)));
        let whole = |der: &CertificateDer<'_>| format!(":{}:", STANDARD.encode(der)).into();
        let whole = self.certificate.iter().map(|name| (name.clone(), certificate.map(whole)));
        subject.chain(whole).collect()
    }
}

/// The subject of a certificate that TLS has verified, the most exact part first (RFC 4514, 2.1); none if it cannot be read.
fn subject(certificate: &CertificateDer<'_>) -> Option<Box<str>> {
    let (mut certificate, _) = der::inside(certificate, der::SEQUENCE)?;
    let mut signed = der::take_inside(&mut certificate, der::SEQUENCE)?;
    if signed.first() == Some(&der::VERSION) {
        der::take(&mut signed)?;
    }
    // Its number, how it is signed, by whom, and when it is valid (RFC 5280, 4.1).
    for _ in 0..4 {
        der::take(&mut signed)?;
    }
    let mut name = der::take_inside(&mut signed, der::SEQUENCE)?;
    let mut parts = Vec::new();
    while !name.is_empty() {
        let mut part = der::take_inside(&mut name, der::SET)?;
        let mut attributes = Vec::new();
        while !part.is_empty() {
            attributes.push(attribute(der::take_inside(&mut part, der::SEQUENCE)?)?);
        }
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    Some(parts.join(",").into())
}

fn attribute(mut bytes: &[u8]) -> Option<String> {
    let id = der::number(der::take_inside(&mut bytes, der::OBJECT_IDENTIFIER)?);
    let value = bytes;
    let (tag, text, _) = der::take(&mut bytes)?;
    let text = std::str::from_utf8(text).ok().filter(|_| der::TEXTS.contains(&tag));
    Some(match (NAMES.iter().find(|(known, _)| *known == id), text) {
        (Some((_, name)), Some(text)) => format!("{name}={}", escaped(text)),
        // An attribute without a name has no text form, either (RFC 4514, 2.4); it must not look like another one.
        (_, _) => format!("{id}=#{}", hex::encode(value)),
    })
}

/// As much of DER (X.690) as it takes to find a subject. Whatever is not as it should be is nothing.
mod der {
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
    pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
    /// The version of a certificate, which those of version 1 leave out.
    pub(super) const VERSION: u8 = 0xa0;
    /// Strings whose bytes are UTF-8: that, numbers, printable ones, and ASCII.
    pub(super) const TEXTS: [u8; 4] = [0x0c, 0x12, 0x13, 0x16];

    /// Takes the first value out of some: its tag, what is inside, and all of it.
    pub(super) fn take<'a>(from: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
        let all = *from;
        let (tag, first) = (*all.first()?, *all.get(1)?);
        let (start, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            // Up to four bytes of a length.
            0x81..=0x84 => {
                let end = 2 + usize::from(first & 0x7f);
                (end, all.get(2..end)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
            }
            _ => return None,
        };
        let end = start.checked_add(length)?;
        let (inside, whole) = (all.get(start..end)?, all.get(..end)?);
        *from = all.get(end..)?;
        Some((tag, inside, whole))
    }

    /// What is inside of the first value, if that has this tag.
    pub(super) fn take_inside<'a>(from: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
        take(from).filter(|(tag, ..)| *tag == wanted).map(|(_, inside, _)| inside)
    }

    /// What is inside of a value with this tag, and what comes after it.
    pub(super) fn inside(mut bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
        take_inside(&mut bytes, wanted).map(|inside| (inside, bytes))
    }

    /// An identifier as numbers with dots.
    pub(super) fn number(bytes: &[u8]) -> String {
        let mut parts: Vec<u64> = Vec::new();
        let mut part = 0_u64;
        for byte in bytes {
            part = part << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                if parts.is_empty() {
                    let first = (part / 40).min(2);
                    parts.extend([first, part - first * 40]);
                } else {
                    parts.push(part);
                }
                part = 0;
            }
        }
        parts.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
    }
}

/// A value in which nothing is taken for the end of it (RFC 4514, 2.4), in visible ASCII.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let is_end = at == 0 || at == last;
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => out.extend(['\\', char::from(byte)]),
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if is_end => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            other => {
                out.push('\\');
                out.push_str(&hex::encode([other]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(parts: &[(DnType, &str)]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn subjects_are_written_so_that_no_value_is_taken_for_more_than_one() {
        let known = certificate(&[
            (DnType::CountryName, "CH"),
            (DnType::OrganizationName, "Shop, Inc."),
            (DnType::CommonName, "alice"),
        ]);
        assert_eq!(subject(&known).as_deref(), Some("CN=alice,O=Shop\\, Inc.,C=CH"));
        let wild = certificate(&[(DnType::CommonName, " #a+b=\"c\"\\;<é>\u{1} ")]);
        assert_eq!(subject(&wild).as_deref(), Some("CN=\\ #a\\+b\\=\\\"c\\\"\\\\\\;\\<\\c3\\a9\\>\\01\\ "));
        let odd = certificate(&[(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99_999, 1]), "x")]);
        assert_eq!(subject(&odd).as_deref(), Some("1.3.6.1.4.1.99999.1=#0c0178"));
    }

    #[test]
    fn a_certificate_that_is_cut_or_broken_has_no_subject_or_the_same() {
        let whole = certificate(&[(DnType::CommonName, "alice"), (DnType::OrganizationName, "x".repeat(200).as_str())]);
        let said = subject(&whole);
        assert!(said.is_some());
        for end in 0..whole.len() {
            assert_eq!(subject(&CertificateDer::from(&whole[..end])), None, "{end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 0xff;
            // Whatever that says, it ends.
            drop(subject(&CertificateDer::from(bytes)));
        }
    }

    #[test]
    fn fields_are_there_whether_there_is_a_certificate_or_not() {
        let fields = CertificateFields {
            subject: Some(HeaderName::from_static("x-client")),
            certificate: Some(HeaderName::from_static("client-cert")),
        };
        assert!(fields.of(None).iter().all(|(_, value)| value.is_none()) && fields.of(None).len() == 2);
        let der = certificate(&[(DnType::CommonName, "bob")]);
        let said: Vec<_> = fields.of(Some(&der)).into_iter().map(|(_, value)| value.unwrap()).collect();
        assert_eq!((&*said[0], &*said[1]), ("CN=bob", &*format!(":{}:", STANDARD.encode(&der))));
        assert!(CertificateFields::default().is_empty() && CertificateFields::default().of(Some(&der)).is_empty());
    }
}
