//! Certificates that callers show, and that the host shows to upstreams.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Who vouches, by name; with the files that say so.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a name, and its key.
    fn certify(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new([tls::NAME.to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Shop, Inc.");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let files = ["cert", "key"].map(|what| self.folder.path().join(format!("{name}-{what}.pem")));
        fs::write(&files[0], params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files[1], key.serialize_pem()).unwrap();
        let [certificate, key] = files;
        (certificate, key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        roots
    }
}

fn pair((certificate, key): &(PathBuf, PathBuf)) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    (vec![certificate], PrivateKeyDer::from_pem_file(key).unwrap())
}

/// What a caller is answered who shows this certificate, if any; nothing if the host does not serve it.
async fn asked(site: &Site, server: &Authority, shown: Option<&(PathBuf, PathBuf)>) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(server.roots());
    let config = match shown {
        None => config.with_no_client_auth(),
        Some(files) => {
            let (certificates, key) = pair(files);
            config.with_client_auth_cert(certificates, key).unwrap()
        }
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = tls::NAME.try_into().unwrap();
    let Ok(mut stream) = connector.connect(name, site.connect().await).await else { return String::new() };
    let request = "GET / HTTP/1.1\r\nhost: shop\r\nx-client: CN=admin\r\nx_client: CN=admin\r\nClient-Cert: :AAAA:\r\n\
                   connection: close\r\n\r\n";
    let mut said = Vec::new();
    // Who is refused learns it when it reads.
    drop(stream.write_all(request.as_bytes()).await);
    drop(timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("an end"));
    String::from_utf8(said).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_show_certificates_and_upstreams_are_told_whose() {
    let (clients, other) = (Authority::new(), Authority::new());
    let (own, alice, mallory) = (other.certify("host"), clients.certify("alice"), other.certify("mallory"));
    let v1 = Upstream::named("one").await;
    let tls = format!(
        "certificate = '{}', key = '{}', client_ca = '{}', client_subject_header = 'x-client', \
         client_cert_header = 'client-cert'",
        own.0.display(),
        own.1.display(),
        clients.ca().display(),
    );
    let required = format!("tls = {{ {tls} }}");
    let site = Setup { http: &required, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let said = asked(&site, &other, Some(&alice)).await;
    assert!(said.contains(r#""x-client":"CN=alice,O=Shop\\, Inc.""#), "{said}");
    assert!(said.contains(r#""client-cert":":MII"#) && !said.contains("AAAA:\""), "{said}");
    assert!(!said.contains("CN=admin"), "who says so is not believed, however it is spelled: {said}");
    assert_eq!(asked(&site, &other, None).await, "", "without one nobody is served");
    assert_eq!(asked(&site, &other, Some(&mallory)).await, "", "nor with that of somebody else");
    site.app.shut_down().await;

    let optional = format!("tls = {{ {tls}, client_auth = 'optional' }}");
    let site = Setup { http: &optional, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let said = asked(&site, &other, None).await;
    assert!(said.starts_with("HTTP/1.1 200 ") && !said.contains("CN=admin") && !said.contains("client-cert"), "{said}");
    assert!(asked(&site, &other, Some(&alice)).await.contains("CN=alice"));
    assert_eq!(asked(&site, &other, Some(&mallory)).await, "");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_shows_a_certificate_to_upstreams_that_want_one() {
    let authority = Authority::new();
    let (service, host) = (authority.certify("service"), authority.certify("host"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let (certificates, key) = pair(&service);
    let config = config.with_client_cert_verifier(verifier.build().unwrap()).with_single_cert(certificates, key);
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let upstream = Upstream::raw(move |stream| {
        let accepting = acceptor.accept(stream);
        async move {
            let Ok(stream) = accepting.await else { return };
            assert!(stream.get_ref().1.peer_certificates().is_some_and(|shown| shown.len() == 1));
            let service = service_fn(|request| answer("one", request));
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        }
    })
    .await;
    let url = format!("https://{}", upstream.address);
    let trust = format!("ca = '{}', server_name = '{}'", authority.ca().display(), tls::NAME);
    let shows =
        format!("tls = {{ {trust}, client_cert = '{}', client_key = '{}' }}", host.0.display(), host.1.display());
    for (pool, status) in [(shows, 200), (format!("tls = {{ {trust} }}"), 502)] {
        let urls = vec![url.clone()];
        let site = Setup { v1: urls.clone(), v2: urls, pool: &pool, ..Setup::of(&[], &[]) }.start().await;
        assert_eq!(site.get("/").await.status, status, "{pool}");
        site.app.shut_down().await;
    }
}

#[test]
fn certificates_that_nobody_vouches_for_are_refused_with_what_would_be_right() {
    let folder = TempDir::new().unwrap();
    let files = tls::certify(folder.path());
    let files = files.trim_start_matches("tls = { ").trim_end_matches(" }");
    let with = |tls: &str, pool: &str| {
        let http = format!("tls = {{ {files}, {tls} }}");
        let http = if tls.is_empty() { "" } else { &http };
        let setup =
            Setup { v1: vec!["https://a".into()], v2: vec!["http://b".into()], http, pool, ..Setup::of(&[], &[]) };
        Config::parse(&setup.text(), &crate::harness::root(), &[]).unwrap_err().to_string()
    };
    let ca = format!("client_ca = '{}'", folder.path().join("cert.pem").display());
    for (tls, pool, words) in [
        ("client_auth = 'require'", "", "`host.http.tls.client_auth` needs `client_ca`"),
        ("client_subject_header = 'x-client'", "", "`host.http.tls.client_subject_header` needs `client_ca`"),
        (&format!("{ca}, client_auth = 'maybe'"), "", "`maybe`; it must be `require` or `optional`"),
        (&format!("{ca}, client_cert_header = 'host'"), "", "is `host`, which says something else"),
        (&format!("{ca}, client_cert_header = 'x-forwarded-for'"), "", "is `x-forwarded-for`, which says something"),
        (&format!("{ca}, client_cert_header = 'te'"), "", "has `te`, which belongs to one connection"),
        ("client_ca = 'gone.pem'", "", "`host.http.tls` cannot be used: cannot read"),
        (
            "",
            "tls = { client_cert = 'a.pem' }",
            "`migrations.shop.v1.tls` has only one of `client_cert` and `client_key`",
        ),
        (
            "",
            "tls = { client_cert = 'a.pem', client_key = 'b.pem' }",
            "`migrations.shop.v1.tls` cannot be used: cannot read",
        ),
    ] {
        let refused = with(tls, pool);
        assert!(refused.contains(words), "{tls} {pool}: {refused}");
    }
}
