//! Failed connections: what failed, between which addresses, what to do, and all causes.

use crate::causes::{causes, chain};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use std::error::Error;
use std::fmt;
use std::io;

/// A request that got no answer, or a part of one.
#[derive(Debug)]
pub struct NetworkError {
    text: String,
    is_temporary: bool,
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for NetworkError {}

impl NetworkError {
    /// Whether the same request may succeed later without a change by a person. A wrong protocol or an untrusted certificate is not
    /// temporary.
    pub(super) fn is_temporary(&self) -> bool {
        self.is_temporary
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
        let Finding { what, remedy, is_temporary } = finding;
        let text = format!("cannot reach {target}{via}: {what}; {remedy} ({})", chain(&error));
        Self { text, is_temporary }
    }
}

/// A proxy that requests go through, and the variable that sets it.
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

/// The cause and what to do about it.
struct Finding {
    what: String,
    remedy: String,
    is_temporary: bool,
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
        let temporary = |what: &str, remedy: String| Finding { what: what.into(), remedy, is_temporary: true };
        let is_tls = url.is_some_and(|url| url.scheme() == "https");
        if let Some(proxy) = proxy {
            let change = format!("correct or unset {}, or except the host with NO_PROXY", proxy.variable);
            if self.says("proxy authorization required") {
                let remedy = format!("write {} as http://user:password@host:port", proxy.variable);
                return Finding { what: "the proxy asks for a password".into(), remedy, is_temporary: false };
            }
            if self.says("tunnel error: unsuccessful") {
                return Finding { what: "the proxy refused to connect".into(), remedy: change, is_temporary: false };
            }
            if error.is_connect() && self.find::<rustls::Error>().is_none() {
                let what = if error.is_dns() {
                    "the name of the proxy is unknown"
                } else if self.io(io::ErrorKind::ConnectionRefused) {
                    "the proxy does not accept connections"
                } else {
                    "the proxy does not answer"
                };
                return temporary(what, format!("start the proxy, or {change}"));
            }
        }
        let check = || "check the address and the network".to_owned();
        if let Some(error) = self.find::<rustls::Error>() {
            return tls(error);
        }
        if error.is_builder() {
            return if self.says("No CA certificates were loaded") {
                let remedy = "install them (Debian: ca-certificates), or give one with --ca-cert FILE".to_owned();
                Finding { what: "this machine has no certificate authorities".into(), remedy, is_temporary: false }
            } else {
                Finding { what: "the request cannot be made".into(), remedy: check(), is_temporary: false }
            };
        }
        if error.is_dns() {
            return temporary("unknown host", "correct the host name, or the name service of this machine".into());
        }
        if self.io(io::ErrorKind::ConnectionRefused) {
            return temporary(
                "connection refused, no program listens at this address",
                "start the coordinator there, or correct the address".into(),
            );
        }
        if error.is_timeout() {
            let what = if error.is_connect() { "no answer to the connection" } else { "nothing came for a while" };
            return temporary(what, "check that the coordinator runs and that no firewall is between".into());
        }
        if is_tls && error.is_connect() && self.io(io::ErrorKind::UnexpectedEof) {
            return plain_port();
        }
        if self.find::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            let remedy = "use https:// in the address if it speaks TLS".to_owned();
            return Finding {
                what: "what listens there does not speak plain HTTP".into(),
                remedy,
                is_temporary: false,
            };
        }
        temporary("the connection broke", check())
    }
}

/// TLS was sent to a port that does not speak it.
fn plain_port() -> Finding {
    let remedy = "use http:// in the address, or the port that speaks TLS".to_owned();
    Finding { what: "what listens there does not speak TLS".into(), remedy, is_temporary: false }
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
    Finding { what: what.into(), remedy, is_temporary: false }
}
