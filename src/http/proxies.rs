//! Undoes what proxies in front of the coordinator do to a request: its connection comes from the proxy's address, and its path
//! may have a prefix.

use crate::config::{BasePath, Network};
use axum::Router;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Where a request comes from: the address of its connection, or the one that a trusted proxy names.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl Peer {
    fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))
    }

    /// The key of limits by address: the holder of one IPv6 address has the other 2^64 of its network.
    pub fn network(self) -> IpAddr {
        match self.0.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            address => address,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// Serves the router also below the base path, and gives it the client's address if a trusted proxy names it.
pub fn behind(router: Router, base_path: BasePath, trusted: Vec<Network>) -> Router {
    let settings = Arc::new((base_path, trusted));
    let seen = move |mut request: Request, next: Next| {
        let settings = settings.clone();
        async move {
            let (base_path, trusted) = &*settings;
            let prefix = base_path.as_str();
            let client = client_of(Peer::of(request.extensions()).0, request.headers(), trusted);
            request.extensions_mut().insert(Peer(client));
            if !prefix.is_empty() && request.uri().path() == prefix {
                // The page's addresses are relative: without the slash they would leave the base path.
                let last = prefix.rsplit('/').next().unwrap_or_default();
                return Redirect::permanent(&format!("{last}/")).into_response();
            }
            if let Some(uri) = without(prefix, request.uri()) {
                *request.uri_mut() = uri;
            }
            next.run(request).await
        }
    };
    // A router's own layers run after it has chosen the route; this one must run before.
    Router::new().fallback_service(router).layer(middleware::from_fn(seen))
}

/// The address without the prefix, if it has it.
fn without(prefix: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(prefix).filter(|rest| rest.starts_with('/'))?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(rest.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// The client's address. Each proxy appends the address that its request came from to `X-Forwarded-For`. Entries before the
/// last one that is not a trusted proxy's may be forged.
fn client_of(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let lines = headers.get_all("x-forwarded-for").into_iter().filter_map(|line| line.to_str().ok());
    let named: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    let mut client = peer;
    for name in named.iter().rev() {
        match name.parse() {
            Ok(address) if trusted.iter().any(|network| network.contains(client)) => client = address,
            _ => break,
        }
    }
    client
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_removed_as_whole_path_segments_only() {
        let without = |uri: &str| without("/fl", &uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(without("/fl/runs/a?x=/fl/"), Some("/runs/a?x=/fl/".to_owned()));
        assert_eq!(without("/fl/"), Some("/".to_owned()));
        for other in ["/fl", "/flow/", "/api/fl/", "/"] {
            assert_eq!(without(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_names_the_client() {
        let client = |peer: &str, lines: &[&str], trusted: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let trusted: Vec<Network> = trusted.iter().map(|network| network.parse().unwrap()).collect();
            client_of(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(client("127.0.0.1", &["6.6.6.6"], &[]), "127.0.0.1");
        assert_eq!(client("9.9.9.9", &["6.6.6.6"], &["127.0.0.1"]), "9.9.9.9");
        assert_eq!(client("127.0.0.1", &["6.6.6.6, 7.7.7.7"], &["127.0.0.1"]), "7.7.7.7");
        assert_eq!(
            client("::ffff:127.0.0.1", &["6.6.6.6", "7.7.7.7, 10.1.2.3"], &["127.0.0.1", "10.0.0.0/8"]),
            "7.7.7.7"
        );
        assert_eq!(client("::1", &["2001:db8::7"], &["::1"]), "2001:db8::7");
        for nonsense in ["", "unknown", "6.6.6.6, unknown"] {
            assert_eq!(client("127.0.0.1", &[nonsense], &["127.0.0.1"]), "127.0.0.1");
        }
    }
}
