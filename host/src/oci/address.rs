//! Where an artefact is: `oci://HOST/REPOSITORY[:TAG][@sha256:DIGEST]`.

use std::net::Ipv4Addr;

use oci_client::Reference;

use super::OciError;

/// A reference that was read, with its registry's name.
#[derive(Debug, Clone)]
pub struct Address(pub(super) Reference);

impl Address {
    /// Reads `oci://HOST/REPOSITORY[:TAG][@sha256:DIGEST]`. The host must be written out.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, OciError> {
        let wrong = |message: &str| OciError::Reference { text: text.to_owned(), message: message.to_owned() };
        let rest = text.strip_prefix("oci://").ok_or_else(|| wrong("it does not begin with `oci://`"))?;
        let host = rest.split_once('/').map(|(host, _)| host).ok_or_else(|| wrong("it has no repository"))?;
        if host != "localhost" && !host.contains(['.', ':']) {
            return Err(wrong("it has no host; Docker Hub is `docker.io`"));
        }
        let reference: Reference = rest.parse().map_err(|e: oci_client::ParseError| wrong(&e.to_string()))?;
        if reference.digest().is_some_and(|digest| !digest.starts_with("sha256:")) {
            return Err(wrong("its digest is not SHA-256"));
        }
        Ok(Self(reference))
    }

    /// The registry's host and port.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The last part of the repository's name.
    pub fn last(&self) -> &str {
        self.0.repository().rsplit('/').next().unwrap_or_default()
    }

    /// The tag; none if there is a digest alone, or nothing was said.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// Whether the reference has a digest.
    pub fn is_pinned(&self) -> bool {
        self.0.digest().is_some()
    }

    /// The same repository under another tag.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> Self {
        Self(Reference::with_tag(self.0.registry().into(), self.0.repository().into(), tag.into()))
    }

    /// Whether a reference says nothing beyond the repository.
    pub fn is_bare(text: &str) -> bool {
        let last = text.rsplit('/').next().unwrap_or_default();
        !last.contains([':', '@'])
    }

    pub(super) fn text(&self) -> String {
        format!("oci://{}", self.0)
    }

    pub(super) fn is_local(&self) -> bool {
        let host = self.registry().split(':').next().unwrap_or_default();
        host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_host() {
        let address = Address::parse("oci://registry.example.com:5000/team/policies/thresholds:1.0.0").unwrap();
        assert_eq!((address.registry(), address.last()), ("registry.example.com:5000", "thresholds"));
        assert_eq!((address.tag(), address.is_pinned()), (Some("1.0.0"), false));
        assert_eq!(address.tagged("2.0.0").text(), "oci://registry.example.com:5000/team/policies/thresholds:2.0.0");
        let pinned = format!("oci://localhost/thresholds@sha256:{}", "ab".repeat(32));
        assert!(Address::parse(&pinned).unwrap().is_pinned());
        let md5 = format!("oci://localhost/thresholds@md5:{}", "ab".repeat(16));
        for wrong in ["thresholds", "oci://thresholds", "oci://team/thresholds", "oci://localhost/Thresholds", &md5] {
            assert!(matches!(Address::parse(wrong), Err(OciError::Reference { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_repository_alone_is_told_from_a_tag_and_a_digest() {
        assert!(Address::is_bare("oci://localhost:5000/thresholds"));
        assert!(!Address::is_bare("oci://localhost:5000/thresholds:1.0.0"));
        assert!(!Address::is_bare("oci://localhost:5000/thresholds@sha256:ab"));
    }

    #[test]
    fn plain_http_is_for_this_machine() {
        for (host, local) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
        ] {
            assert_eq!(Address::parse(&format!("oci://{host}/thresholds:1")).unwrap().is_local(), local, "{host}");
        }
    }
}
