//! Failed connections in plain words: what failed, between whom, and what to do, with all causes behind it.

use crate::causes::{causes, chain};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use std::error::Error;
use std::fmt;
use std::io;

/// A request that got no answer, or half of one.
#[derive(Debug)]
pub struct NetworkError {
    text: String,
    is_passing: bool,
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for NetworkError {}

impl NetworkError {
    /// Whether the same request may succeed later. Where the other side speaks another protocol, or its certificate is not
    /// trusted, somebody has to change something first.
    pub(super) fn is_passing(&self) -> bool {
        self.is_passing
    }
}

impl From<reqwest::Error> for NetworkError {
    fn from(error: reqwest::Error) -> Self {
        let url = error.url().cloned();
        let error = error.without_url();
        let proxy = url.as_ref().and_then(proxy_of);
        let target = url.as_ref().map_or_else(|| "the coordinator".to_owned(), origin);
        let via = proxy.as_ref().map(|proxy| format!(" by {proxy}")).unwrap_or_default();
        let finding = Causes(&error).finding(&error, url.as_ref(), proxy.as_ref());
        let Finding { what, remedy, is_passing } = finding;
        let text = format!("cannot reach {target}{via}: {what}; {remedy} ({})", chain(&error));
        Self { text, is_passing }
    }
}

/// A proxy that requests go through, and where it is set.
pub(super) struct Proxy {
    url: String,
    variable: &'static str,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {} (set by {})", self.url, self.variable)
    }
}

/// The proxy that the environment names for this address, without its credentials.
pub(super) fn proxy_of(url: &Url) -> Option<Proxy> {
    let proxy = Matcher::from_env().intercept(&url.as_str().parse().ok()?)?;
    let variables = match url.scheme() {
        "https" => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let is_set = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let variable = variables.into_iter().find(is_set)?;
    Some(Proxy { url: proxy.uri().to_string().trim_end_matches('/').to_owned(), variable })
}

/// Scheme, host and port, without credentials.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// What a person needs to know.
struct Finding {
    what: String,
    remedy: String,
    is_passing: bool,
}

/// The chain of causes of an error.
struct Causes<'a>(&'a (dyn Error + 'static));

impl<'a> Causes<'a> {
    fn find<T: Error + 'static>(&self) -> Option<&'a T> {
        causes(self.0).find_map(|error| error.downcast_ref())
    }

    fn io(&self, kind: io::ErrorKind) -> bool {
        causes(self.0).any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind))
    }

    fn says(&self, words: &str) -> bool {
        causes(self.0).any(|error| error.to_string().contains(words))
    }

    fn finding(&self, error: &reqwest::Error, url: Option<&Url>, proxy: Option<&Proxy>) -> Finding {
        let passing = |what: &str, remedy: String| Finding { what: what.into(), remedy, is_passing: true };
        let is_tls = url.is_some_and(|url| url.scheme() == "https");
        if let Some(proxy) = proxy {
            let change = format!("correct or unset {}, or except the host with NO_PROXY", proxy.variable);
            if self.says("proxy authorization required") {
                let remedy = format!("write {} as http://user:password@host:port", proxy.variable);
                return Finding { what: "the proxy asks for a password".into(), remedy, is_passing: false };
            }
            if self.says("tunnel error: unsuccessful") {
                return Finding { what: "the proxy refused to connect".into(), remedy: change, is_passing: false };
            }
            if error.is_connect() && self.find::<rustls::Error>().is_none() {
                let what = if error.is_dns() {
                    "the name of the proxy is unknown"
                } else if self.io(io::ErrorKind::ConnectionRefused) {
                    "the proxy does not accept connections"
                } else {
                    "the proxy does not answer"
                };
                return passing(what, format!("start the proxy, or {change}"));
            }
        }
        let check = || "check the address and the network".to_owned();
        if let Some(error) = self.find::<rustls::Error>() {
            return tls(error);
        }
        if error.is_builder() {
            return if self.says("No CA certificates were loaded") {
                let remedy = "install them (Debian: ca-certificates), or give one with --ca-cert FILE".to_owned();
                Finding { what: "this machine has no certificate authorities".into(), remedy, is_passing: false }
            } else {
                Finding { what: "the request cannot be made".into(), remedy: check(), is_passing: false }
            };
        }
        if error.is_dns() {
            return passing("unknown host", "correct the host name, or the name service of this machine".into());
        }
        if self.io(io::ErrorKind::ConnectionRefused) {
            return passing(
                "connection refused, no program listens at this address",
                "start the coordinator there, or correct the address".into(),
            );
        }
        if error.is_timeout() {
            let what = if error.is_connect() { "no answer to the connection" } else { "nothing came for a while" };
            return passing(what, "check that the coordinator runs and that no firewall is between".into());
        }
        if is_tls && error.is_connect() && self.io(io::ErrorKind::UnexpectedEof) {
            return plain_port();
        }
        if self.find::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            let remedy = "use https:// in the address if it speaks TLS".to_owned();
            return Finding { what: "what listens there does not speak plain HTTP".into(), remedy, is_passing: false };
        }
        passing("the connection broke", check())
    }
}

/// TLS is spoken to a port that does not.
fn plain_port() -> Finding {
    let remedy = "use http:// in the address, or the port that speaks TLS".to_owned();
    Finding { what: "what listens there does not speak TLS".into(), remedy, is_passing: false }
}

fn tls(error: &rustls::Error) -> Finding {
    use rustls::CertificateError as Certificate;
    let remedy = "give the certificate of its authority with --ca-cert FILE".to_owned();
    let (what, remedy) = match error {
        rustls::Error::InvalidMessage(_) => return plain_port(),
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => ("the certificate is for another host name", "use the name that the certificate has".to_owned()),
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            ("the certificate has expired", "renew it, or set this machine's clock".to_owned())
        }
        rustls::Error::InvalidCertificate(_) => ("the certificate is not trusted", remedy),
        _ => ("the TLS connection failed", "check the address, and the TLS settings there".to_owned()),
    };
    Finding { what: what.into(), remedy, is_passing: false }
}
