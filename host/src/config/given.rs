//! What the environment gives that is more than words: listening sockets, and what registries ask for.

use std::{io, net::TcpListener};

use cutover_model::environment::variable;

/// The listening sockets that whoever started this process gave it (`LISTEN_FDS`, `sd_listen_fds(3)`), with their names.
/// To be asked once, and before there is another thread.
///
/// # Errors
/// When one of them is no TCP socket.
pub fn listening() -> io::Result<Vec<(String, TcpListener)>> {
    let names = variable("LISTEN_FDNAMES").and_then(|names| names.into_string().ok()).unwrap_or_default();
    let mut names = names.split(':');
    let mut given = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..given.len() {
        let name = names.next().unwrap_or_default().to_owned();
        sockets.extend(given.take_tcp_listener(at)?.map(|socket| (name, socket)));
    }
    Ok(sockets)
}

/// What Docker's configuration (`DOCKER_CONFIG`, or `.docker` in the home folder) has for a registry: user and password.
/// None where it has nothing.
///
/// # Errors
/// What is wrong with what it has.
pub fn registry_credentials(registry: &str) -> Result<Option<(String, String)>, String> {
    use docker_credential::{CredentialRetrievalError as Error, DockerCredential};
    // Docker Hub is filed under the address that it had first.
    let server = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
    match docker_credential::get_credential(server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(Some((user, password))),
        Ok(DockerCredential::IdentityToken(_)) => {
            Err(format!("Docker's configuration has an identity token for `{registry}`; log in with user and password"))
        }
        Err(Error::ConfigNotFound | Error::ConfigReadError | Error::NoCredentialConfigured) => Ok(None),
        Err(error) => {
            Err(format!("Docker's configuration has something for `{registry}` that cannot be used: {error}"))
        }
    }
}
