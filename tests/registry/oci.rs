//! OCI registries: Debian's `docker-registry`, and one that lies.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use cutover_policy_host::engine::Limits;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Done, bundle, list, policy, push};
use crate::harness::{Setup, components, eventually};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// A real registry, with its folder.
struct Registry {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Registry {
    /// None where `docker-registry` is not installed.
    async fn start() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let config = folder.path().join("config.yml");
        let storage = folder.path().join("storage").display().to_string();
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: '{storage}' }} }}\nhttp: {{ addr: '{address}' }}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            say("skipped: there is no docker-registry; install it with `apt-get install docker-registry`\n");
            return None;
        };
        let registry = Self { child, address, _folder: folder };
        eventually("the registry", async || {
            registry.send("GET", "/v2/", "text/plain", "").await.ok().filter(|(status, _)| *status == 200)
        })
        .await;
        Some(registry)
    }

    /// Sends a request; the status, and the path that `location` names.
    async fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let (host, length) = (&self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: {content_type}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default();
        let path = location.split_once(host.as_str()).map_or(location, |(_, path)| path);
        Ok((status, path.to_owned()))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Past the test harness, which keeps to itself what passing tests print.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

async fn publish(source: &Path, to: &str) -> Done {
    let (source, components) = (source.display().to_string(), components().display().to_string());
    policy(&["push", &source, "--to", to, "--components", &components, "--json"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_pulled_by_tag_and_pinned_by_digest() {
    let Some(registry) = Registry::start().await else { return };
    let (host, bundles) = (Setup::default().start().await, TempDir::new().unwrap());
    let repository = format!("oci://{}/policies/thresholds", registry.address);
    let first = bundle(bundles.path(), "1.0.0", "min_requests = 7");
    let published = publish(&first, &repository).await.json();
    assert_eq!(published["reference"], format!("{repository}:1.0.0"), "the version is the tag");
    let digest = published["manifest"].as_str().unwrap();

    let pushed = push(&host, Path::new(&format!("{repository}:1.0.0")), &["--json"]).await.json();
    let policy = &pushed["policy"];
    assert_eq!(
        (&policy["name"], &policy["version"], &policy["kind"]),
        (&json!("thresholds"), &json!("1.0.0"), &json!("rollback"))
    );
    assert_eq!((&policy["settings"], &policy["author"]), (&json!({ "min_requests": 7 }), &json!("olga")));
    let provenance =
        json!({ "from": "oci", "reference": format!("{repository}:1.0.0"), "tag": "1.0.0", "manifest": digest });
    assert_eq!(policy["provenance"], provenance);
    let pinned = push(&host, Path::new(&format!("{repository}@{digest}")), &["--json"]).await.json();
    assert_eq!(pinned["new"], false);

    // A tag that holds one policy does not come to hold another; the same may be published again.
    assert_eq!(publish(&first, &repository).await.code, Some(0));
    let other = bundle(bundles.path(), "1.1.0", "");
    let taken = format!("{repository}:1.0.0");
    publish(&other, &taken).await.fails(1, &["holds another policy already", "raise the version"]);
    assert_eq!(publish(&other, &repository).await.code, Some(0));

    let source = |tail: &str| format!("{repository}{tail}");
    push(&host, Path::new(&source(":9.9.9")), &[]).await.fails(1, &["the registry has no", ":9.9.9"]);
    let gone = format!("@{}", sha256(b"nothing"));
    push(&host, Path::new(&source(&gone)), &[]).await.fails(1, &["the registry has no"]);
    let pinned = format!("oci://{}/policies/thresholds@{digest}", registry.address);
    publish(&other, &pinned).await.fails(2, &["publish to a tag"]);
    assert_eq!(list(&host, &["--json"]).await.json()["policies"].as_array().unwrap().len(), 1);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artefact_of_other_tools_is_taken_with_its_kind() {
    let Some(registry) = Registry::start().await else { return };
    let (host, bundles) = (Setup::default().start().await, TempDir::new().unwrap());
    let repository = format!("oci://{}/team/careful", registry.address);
    // The component comes into the registry by us; the manifest without our annotations is what `wkg` would write.
    let published = publish(&bundle(bundles.path(), "1.0.0", ""), &repository).await.json();
    let component = fs::read(components().join("thresholds.wasm")).unwrap();
    assert_eq!(published["policy"]["component_sha256"], sha256(&component)[7..]);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": sha256(b"{}"), "size": 2 },
        "layers": [{ "mediaType": "application/wasm", "digest": sha256(&component), "size": component.len() }],
    });
    let (status, upload) = registry.send("POST", "/v2/team/careful/blobs/uploads/", "text/plain", "").await.unwrap();
    assert_eq!(status, 202);
    let upload = format!("{upload}&digest={}", sha256(b"{}"));
    assert_eq!(registry.send("PUT", &upload, "application/octet-stream", "{}").await.unwrap().0, 201);
    let path = "/v2/team/careful/manifests/2.0.0";
    assert_eq!(registry.send("PUT", path, MANIFEST, &manifest.to_string()).await.unwrap().0, 201);

    let source = format!("{repository}:2.0.0");
    push(&host, Path::new(&source), &[]).await.fails(2, &["does not say what kind", "--kind"]);
    let pushed = push(&host, Path::new(&source), &["--kind", "rollback", "--json"]).await.json();
    assert_eq!((&pushed["policy"]["name"], &pushed["policy"]["version"]), (&json!("careful"), &json!("2.0.0")));
    host.app.shut_down().await;
}

/// What a registry that lies answers, by path: a status, headers and a body.
type Lies = BTreeMap<String, (&'static str, String, Vec<u8>)>;

/// Such a registry, on a port of its own.
struct Liar {
    address: String,
    _serving: JoinSet<()>,
}

impl Liar {
    async fn start(lies: Lies) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 8 << 10];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let unknown = ("404 Not Found", String::new(), b"{}".to_vec());
                let (status, headers, body) = lies.get(&path).unwrap_or(&unknown);
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
                drop(stream.write_all(&[head.as_bytes(), body].concat()).await);
            }
        });
        Self { address, _serving: serving }
    }
}

/// An artefact with one component, told from others by its path.
fn artefact(lies: &mut Lies, name: &str, component: &[u8], served: &[u8], change: impl Fn(&mut Value)) {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": sha256(b"{}"), "size": 2 },
        "layers": [{ "mediaType": "application/wasm", "digest": sha256(component), "size": component.len() }],
    });
    change(&mut manifest);
    let body = manifest.to_string().into_bytes();
    lies.insert(format!("/v2/{name}/manifests/1.0.0"), ("200 OK", String::new(), body));
    lies.insert(format!("/v2/{name}/blobs/{}", sha256(component)), ("200 OK", String::new(), served.to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lying_registry_serves_is_refused() {
    let (good, bad) = (b"\0asm good".as_slice(), b"\0asm evil".as_slice());
    let same = |_: &mut Value| {};
    let limit = Limits::default().component_bytes;
    let too_large = format!("a component of more than {limit} bytes");
    let mut lies = Lies::new();
    artefact(&mut lies, "tampered", good, bad, same);
    artefact(&mut lies, "endless", good, &vec![0; limit + 1], same);
    artefact(&mut lies, "huge", good, good, |m| m["layers"][0]["size"] = json!(1_u64 << 40));
    artefact(&mut lies, "image", good, good, |m| {
        m["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    });
    artefact(&mut lies, "two", good, good, |m| m["layers"] = json!([m["layers"][0], m["layers"][0]]));
    artefact(&mut lies, "other", good, good, |m| {
        let manifest = json!({
            "name": "other", "version": "1.0.0", "kind": "rollback", "component_sha256": "00", "contract": "0.1.0",
            "settings_schema_sha256": "00", "settings": {},
        });
        m["annotations"] = json!({ "vnd.cutover.policy.manifest": manifest.to_string() });
    });
    artefact(&mut lies, "pinned", good, good, same);
    let pinned = sha256(b"what was asked for");
    let served = lies["/v2/pinned/manifests/1.0.0"].clone();
    lies.insert(format!("/v2/pinned/manifests/{pinned}"), served);
    lies.insert("/v2/large/manifests/1.0.0".into(), ("200 OK", String::new(), vec![b' '; 5 << 20]));
    let location = "location: /v2/circle/manifests/1.0.0\r\n".to_owned();
    lies.insert("/v2/circle/manifests/1.0.0".into(), ("307 Temporary Redirect", location, Vec::new()));
    lies.insert("/v2/private/manifests/1.0.0".into(), ("401 Unauthorized", String::new(), b"{}".to_vec()));
    lies.insert("/v2/html/manifests/1.0.0".into(), ("200 OK", String::new(), b"<html>".to_vec()));
    let (liar, host) = (Liar::start(lies).await, Setup::default().start().await);

    let pull = async |tail: &str, words: &[&str]| {
        let source = format!("oci://{}/{tail}", liar.address);
        push(&host, Path::new(&source), &["--kind", "rollback"]).await.fails(1, &[&[tail], words].concat());
    };
    pull("tampered:1.0.0", &[&sha256(good), &sha256(bad)]).await;
    pull("endless:1.0.0", &[&too_large]).await;
    pull("huge:1.0.0", &[&too_large]).await;
    pull("image:1.0.0", &["is not a WebAssembly artefact", "application/vnd.oci.image.config.v1+json"]).await;
    pull("two:1.0.0", &["it has 2 layers, not 1"]).await;
    pull("other:1.0.0", &["its annotation describes the component 00"]).await;
    pull(&format!("pinned@{pinned}"), &[&pinned]).await;
    pull("large:1.0.0", &["a manifest of more than 4194304 bytes"]).await;
    pull("circle:1.0.0", &["redirect"]).await;
    pull("private:1.0.0", &["Not authorized"]).await;
    pull("html:1.0.0", &["its manifest is not one"]).await;
    pull("missing:1.0.0", &["the registry has no"]).await;
    assert_eq!(list(&host, &["--json"]).await.json()["policies"], json!([]));
    host.app.shut_down().await;
}

/// A registry whose answers to paths with a word in them have no end.
async fn endless(word: &'static str, component: &'static [u8]) -> Liar {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (mut serving, realm) = (JoinSet::new(), address.clone());
    let mut lies = Lies::new();
    artefact(&mut lies, "endless", component, component, |_| {});
    serving.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8 << 10];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let path = String::from_utf8_lossy(&head[..read]).split(' ').nth(1).unwrap_or_default().to_owned();
            if word == "token" && path == "/v2/" {
                let challenge = format!("www-authenticate: Bearer realm=\"http://{realm}/token\",service=\"s\"");
                let head = format!(
                    "HTTP/1.1 401 Unauthorized\r\n{challenge}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                drop(stream.write_all(head.as_bytes()).await);
            } else if path.contains(word) {
                let status = if path.contains("blobs") { "500 Internal Server Error" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n");
                let piece = vec![b' '; 1 << 20];
                let mut sent = stream.write_all(head.as_bytes()).await;
                // Until whoever reads it has gone.
                while sent.is_ok() {
                    sent = stream.write_all(&piece).await;
                }
            } else {
                let unknown = ("404 Not Found", String::new(), b"{}".to_vec());
                let (status, _, body) = lies.get(&path).unwrap_or(&unknown);
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                drop(stream.write_all(&[head.as_bytes(), body].concat()).await);
            }
        }
    });
    Liar { address, _serving: serving }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_never_ends_is_given_up_before_it_has_taken_the_machine() {
    let host = Setup::default().start().await;
    for word in ["manifests", "blobs", "token"] {
        let liar = endless(word, b"\0asm good").await;
        let source = format!("oci://{}/endless:1.0.0", liar.address);
        let mut command = Command::new(crate::harness::binary());
        let arguments = ["policy", "push", &source, "--reason", "a test", "--kind", "rollback", "--admin"];
        let mut child = command
            .args(arguments)
            .arg(format!("http://{}", host.http.admin))
            .env("DOCKER_CONFIG", "/nowhere")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut most = 0;
        let status = eventually("the end of the command", async || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
            most = most.max(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
            child.try_wait().unwrap()
        })
        .await;
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(status.code(), Some(1), "{word}: {said}");
        assert!(said.contains("the registry sent more than an artefact"), "{word}: {said}");
        assert!(most < 1 << 20, "{word}: {most} kB");
    }
    host.app.shut_down().await;
}
