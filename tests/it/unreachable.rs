//! Coordinators that cannot be reached: each cause in plain words, with what to do about it.

use crate::harness::{Coordinator, NO_DATASET, soon};
use fedlearn::agent::{CallError, NetworkError, Transport};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

/// A port of this machine at which nobody listens.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// What is said of a request to that address.
async fn failure(url: &str) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    NetworkError::from(soon("a failure", http.get(url).send()).await.unwrap_err()).to_string()
}

fn contains(text: &str, words: &[&str]) {
    for words in words {
        assert!(text.contains(words), "'{words}' is not in '{text}'");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_the_connection_is_refused() {
    let port = free_port().await;
    let said = failure(&format!("http://user:sesame@127.0.0.1:{port}/api")).await;
    contains(
        &said,
        &[
            &format!("cannot reach http://127.0.0.1:{port}: connection refused"),
            "start the coordinator",
            "os error 111",
        ],
    );
    assert!(!said.contains("sesame"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_an_address_is_unknown() {
    // No name has a label as long as that, so that no name service needs to be asked.
    let host = "x".repeat(64);
    contains(&failure(&format!("http://{host}/")).await, &[&host, "unknown host", "correct the host name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_spoken_to_a_plain_port_and_the_other_way_round_are_told_apart() {
    let coordinator = Coordinator::start(&NO_DATASET).await;
    let said = failure(&format!("https://{}/", coordinator.authority())).await;
    contains(&said, &["what listens there does not speak TLS", "use http:// in the address"]);
    let front = Front::before(&coordinator).await;
    let said = failure(&format!("http://{}/", front.authority)).await;
    contains(&said, &["what listens there does not speak plain HTTP", "use https:// in the address"]);
    // Neither mends itself: who has never been answered does not try again.
    let wrong = Transport::new(&format!("https://{}", coordinator.authority()), &"default".parse().unwrap()).unwrap();
    let error = soon("an end", wrong.snapshot()).await.unwrap_err();
    assert!(matches!(error, CallError::Network(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_certificate_authority_is_trusted_once_it_is_given() {
    let coordinator = Coordinator::start(&NO_DATASET).await;
    let front = Front::before(&coordinator).await;
    let (origin, run) = (format!("https://{}", front.authority), "default".parse().unwrap());
    let other = tempfile::NamedTempFile::new().unwrap();
    // Without it, or with another one, it is said what to do, also on a machine that trusts nobody;
    let error = match Transport::new(&origin, &run) {
        Ok(transport) => soon("an end", transport.snapshot()).await.unwrap_err(),
        Err(error) => error,
    };
    contains(&error.to_string(), &["--ca-cert FILE"]);
    std::fs::write(other.path(), &Front::before(&coordinator).await.authority_pem).unwrap();
    let stranger = Transport::trusting(&origin, &run, Some(other.path())).unwrap();
    let error = soon("an end", stranger.snapshot()).await.unwrap_err().to_string();
    contains(&error, &["the certificate is not trusted", "with --ca-cert FILE", "invalid peer certificate"]);
    // with it, the coordinator answers.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &front.authority_pem).unwrap();
    let transport = Transport::trusting(&origin, &run, Some(file.path())).unwrap();
    assert_eq!(soon("an answer", transport.snapshot()).await.unwrap().run, run);
    // The certificate is for that address alone.
    let name = Transport::trusting(&origin.replace("127.0.0.1", "localhost"), &run, Some(file.path())).unwrap();
    let error = soon("an end", name.snapshot()).await.unwrap_err().to_string();
    contains(&error, &["the certificate is for another host name"]);
}

#[test]
fn a_file_without_certificates_is_named() {
    let run = "default".parse().unwrap();
    let failure = |path: &Path| Transport::trusting("https://127.0.0.1:1", &run, Some(path)).unwrap_err().to_string();
    contains(&failure(Path::new("/nowhere.pem")), &["--ca-cert /nowhere.pem: cannot read it: No such file"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no certificate").unwrap();
    contains(&failure(file.path()), &["it has no certificate", "BEGIN CERTIFICATE"]);
}

/// What an agent with these variables says before it ends or tries again.
async fn agent(url: &str, variables: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_fedlearn"));
    program.args(["join", url, "--noise", "0.1"]).envs(variables.iter().copied()).kill_on_drop(true);
    program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = soon("a line of its log", lines.next_line()).await.unwrap().unwrap();
    if line.contains("trying again") {
        return (line, None);
    }
    (line, soon("its end", child.wait()).await.unwrap().code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_dead_or_refuses_is_named_with_its_variable_and_without_its_password() {
    let port = free_port().await;
    let dead = format!("http://user:sesame@127.0.0.1:{port}");
    for (url, variable) in [
        ("http://192.0.2.1:3000", "HTTP_PROXY"),
        ("https://192.0.2.1:3000", "HTTPS_PROXY"),
        ("http://192.0.2.1", "ALL_PROXY"),
    ] {
        let (said, code) = agent(url, &[(variable, &dead)]).await;
        contains(
            &said,
            &[
                &format!("by the proxy http://127.0.0.1:{port} (set by {variable})"),
                "the proxy does not accept connections",
                &format!("correct or unset {variable}"),
            ],
        );
        assert!(!said.contains("sesame") && code.is_none(), "{said}");
    }
    // One that refuses is asked once.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let refusing = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = BufReader::new(&mut stream).read_line(&mut String::new()).await;
            let _ =
                stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await;
        }
    });
    let (said, code) = agent("http://192.0.2.1:3000", &[("HTTP_PROXY", &proxy)]).await;
    contains(
        &said,
        &[&format!("the proxy {proxy} (set by HTTP_PROXY) does not let requests through to 192.0.2.1"), "403"],
    );
    assert_eq!(code, Some(1));
    let (said, code) = agent("https://192.0.2.1:3000", &[("HTTPS_PROXY", &proxy)]).await;
    contains(&said, &[&format!("by the proxy {proxy} (set by HTTPS_PROXY): the proxy refused to connect")]);
    assert_eq!(code, Some(1));
    refusing.abort();
}

/// A TLS listener that passes bytes on to a coordinator, with a certificate of an authority of its own.
struct Front {
    authority: String,
    authority_pem: String,
    accepting: tokio::task::JoinHandle<()>,
}

impl Front {
    async fn before(coordinator: &Coordinator) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let behind = coordinator.authority();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut behind = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { authority, authority_pem, accepting }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
