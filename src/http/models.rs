//! The global model: immutable versions, by content negotiation, with ETag and Range.

use super::auth::ModelReader;
use super::error::{ApiError, ApiResult};
use super::extract::{ApiPath, ApiQuery};
use super::header_text;
use crate::coordinator::{EncodedModel, RunHandle, VersionError};
use crate::wire::{self, ModelFormat};
use app::api::{Encoding, ErrorCode, RunId};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};

/// Query of a model.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ModelQuery {
    /// A version that the client has already. The answer is a difference to it if the coordinator still has that version and the
    /// difference is smaller.
    #[serde(default)]
    base: Option<u64>,
}

/// A version of the global model; `latest` redirects to the current one, `best` to the one with the highest test accuracy.
#[utoipa::path(
    get, path = "/runs/{run}/models/{version}", tag = "client",
    params(("run" = RunId, Path), ("version" = String, Path, description = "a version, `latest` or `best`"), ModelQuery,
        ("If-None-Match" = Option<String>, Header, description = "the ETag of the body that the client has"),
        ("Range" = Option<String>, Header, description = "one range of bytes, such as `bytes=1000-`"),
        ("If-Range" = Option<String>, Header, description = "the ETag that the range belongs to"),
    ),
    security(("client" = []), ("admin" = []), ("session" = [])),
    responses(
        (status = 200, content(
            (Vec<u8> = "application/vnd.safetensors"), (Vec<u8> = "application/vnd.fedlearn.params"),
        ), headers(
            ("ETag" = String, description = "names this body"),
            ("Content-Encoding" = String, description = "`zstd`, where the client accepts it for safetensors"),
        )),
        (status = 206, description = "the range asked for", content(
            (Vec<u8> = "application/vnd.safetensors"), (Vec<u8> = "application/vnd.fedlearn.params"),
        ), headers(("Content-Range" = String, description = "where it lies in the whole body"))), (status = 304, description = "the client has this body already"),
        (status = 307, description = "from `latest` or `best` to that version", headers(
            ("Location" = String, description = "the version, relative to this address"),
        )), (status = 403), (status = 406),
        (status = 416, headers(("Content-Range" = String, description = "how long the body is")))),
)]
pub async fn get_model(
    ModelReader(run): ModelReader,
    ApiPath((_, version)): ApiPath<(RunId, String)>,
    ApiQuery(query): ApiQuery<ModelQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let versions = run.versions();
    let redirected = match version.as_str() {
        "latest" => Some(versions.version()),
        "best" => Some(best(&run)?),
        _ => None,
    };
    if let Some(version) = redirected {
        // Relative: a proxy may serve the coordinator under a path.
        let to = Redirect::temporary(&version.to_string());
        return Ok(([(header::CACHE_CONTROL, "no-store")], to).into_response());
    }
    let version: u64 = version.parse().map_err(|_| {
        let message = format!("'{version}' is not a version: give a number, 'latest' or 'best'");
        ApiError::new(ErrorCode::NotFound, message)
    })?;
    let (format, EncodedModel { bytes, tag }) = representation(&run, version, query.base, &headers).await?;

    let etag = format!("\"{tag}\"");
    let text = |text: &str| HeaderValue::from_str(text).map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()));
    let mut head = HeaderMap::new();
    head.insert(header::ETAG, text(&etag)?);
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    head.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding, authorization"));
    // Compared weakly (RFC 9110, 13.1.2): proxies that compress make tags weak.
    if names(&headers, header::IF_NONE_MATCH, &etag) || names(&headers, header::IF_NONE_MATCH, &format!("W/{etag}")) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    head.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    head.insert(header::CONTENT_TYPE, text(format.content_type())?);
    if let Some(encoding) = format.content_encoding() {
        head.insert(header::CONTENT_ENCODING, text(encoding)?);
    }
    let total = bytes.len() as u64;
    // A range of another body would be useless.
    let same = !headers.contains_key(header::IF_RANGE) || names(&headers, header::IF_RANGE, &etag);
    let range = headers.get(header::RANGE).filter(|_| same).and_then(|v| v.to_str().ok());
    match range.map(|range| single_range(range, total)) {
        None | Some(Ok(None)) => Ok((head, Body::from(bytes)).into_response()),
        Some(Ok(Some((first, last)))) => {
            head.insert(header::CONTENT_RANGE, text(&format!("bytes {first}-{last}/{total}"))?);
            // Both are below the length of a slice in memory.
            let part = bytes.slice(first as usize..=last as usize);
            Ok((StatusCode::PARTIAL_CONTENT, head, Body::from(part)).into_response())
        }
        Some(Err(())) => {
            let head = [(header::CONTENT_RANGE, format!("bytes */{total}"))];
            Ok((StatusCode::RANGE_NOT_SATISFIABLE, head).into_response())
        }
    }
}

/// The version with the highest test accuracy; of several, the first.
fn best(run: &RunHandle) -> ApiResult<u64> {
    run.feed().read(|snapshot| match snapshot.best {
        Some(best) => Ok(best.version),
        None => {
            let why = match snapshot.dataset {
                Some(_) => "no version of it has been evaluated yet",
                None => "it has no test split, so no version has an accuracy",
            };
            let message =
                format!("run '{}' has no best version: {why}; models/latest is the current one", snapshot.run);
            Err(ApiError::new(ErrorCode::NotFound, message))
        }
    })
}

/// The body for a client that sends these headers and has the version `base`.
async fn representation(
    run: &RunHandle,
    version: u64,
    base: Option<u64>,
    headers: &HeaderMap,
) -> ApiResult<(ModelFormat, EncodedModel)> {
    let versions = run.versions();
    let updates = run.feed().read(|snapshot| snapshot.config.encoding);
    let (accept, codings) = (header_text(headers, header::ACCEPT)?, header_text(headers, header::ACCEPT_ENCODING)?);
    let format = |with_base| wire::model_format(accept, codings, updates, with_base);
    let delta = ModelFormat::Container(Encoding::Bf16Delta);
    if let Some(base) = base.filter(|_| format(true) == Ok(delta)) {
        // A client that accepts only the difference gets it in any case.
        let whole = format(false).ok();
        let whole_body = async {
            match whole {
                Some(whole) => versions.get(version, whole, None).await.map(Some),
                None => Ok(None),
            }
        };
        match tokio::join!(versions.get(version, delta, Some(base)), whole_body) {
            (Ok(encoded), other) => {
                let whole = whole.zip(other?).filter(|(_, other)| encoded.bytes.len() >= other.bytes.len());
                return Ok(whole.unwrap_or((delta, encoded)));
            }
            (Err(VersionError::NoVersion(missing)), _) if missing == base && missing != version => {}
            (Err(error), _) => return Err(error.into()),
        }
    }
    let format = format(false).map_err(|e| ApiError::new(ErrorCode::NotAcceptable, e.to_string()))?;
    Ok((format, versions.get(version, format, None).await?))
}

/// Whether one of the tags in that header is this one, or any.
pub(super) fn names(headers: &HeaderMap, header: header::HeaderName, etag: &str) -> bool {
    let values = headers.get_all(header).into_iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(str::trim).any(|tag| tag == "*" || tag == etag)
}

/// First and last byte. `None` means the whole body: there are several ranges, or it cannot be read (RFC 9110, 14.2).
fn single_range(range: &str, total: u64) -> Result<Option<(u64, u64)>, ()> {
    // The crate rejects a suffix that is longer than the body; it means all bytes.
    let suffix = range.strip_prefix("bytes=-").and_then(|n| n.parse::<u64>().ok());
    if suffix.is_some_and(|n| n >= total) && total > 0 {
        return Ok(Some((0, total - 1)));
    }
    let Ok(parsed) = http_range_header::parse_range_header(range) else { return Ok(None) };
    let ranges = parsed.validate(total).map_err(|_| ())?;
    match ranges.as_slice() {
        [one] => Ok(Some((*one.start(), *one.end()))),
        _ => Ok(None),
    }
}
