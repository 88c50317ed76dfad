//! Refusals: codes that agents and the page act on, with a message for people.

use super::model::word;
use serde::{Deserialize, Serialize};

word!(
    /// Why a request was refused. Each has one HTTP status.
    ErrorCode {
        /// 400: not what this resource takes.
        BadRequest = "bad_request",
        /// 401: no token, or not a valid one.
        Unauthorized = "unauthorized",
        /// 403: the operator removed this client.
        Kicked = "kicked",
        /// 403: too many updates of this client were refused; the operator can admit it again.
        Quarantined = "quarantined",
        /// 403: the client is not admitted, or not in this round's cohort.
        NotAdmitted = "not_admitted",
        /// 403: the join secret is missing or wrong.
        WrongSecret = "wrong_secret",
        /// 403: a cookie's request from another site.
        CrossSite = "cross_site",
        /// 404: no such run, client, round, version or address.
        NotFound = "not_found",
        /// 405: the address has no such method.
        MethodNotAllowed = "method_not_allowed",
        /// 406: no offered representation is acceptable.
        NotAcceptable = "not_acceptable",
        /// 408: the body came too slowly.
        Timeout = "timeout",
        /// 409: that round is not open, or the state does not allow it.
        Conflict = "conflict",
        /// 410: that round is closed.
        RoundClosed = "round_closed",
        /// 412: the config has changed since.
        PreconditionFailed = "precondition_failed",
        /// 413: the body is over the cap.
        TooLarge = "too_large",
        /// 415: unknown content type or encoding.
        UnsupportedMediaType = "unsupported_media_type",
        /// 422: the body was read and is not acceptable.
        Invalid = "invalid",
        /// 425: that round has not opened yet.
        TooEarly = "too_early",
        /// 428: the header `If-Match` is missing.
        PreconditionRequired = "precondition_required",
        /// 429: too many at once; ask again after `Retry-After`.
        TooMany = "too_many",
        /// 500: our fault.
        Internal = "internal",
        /// 503: not now; ask again after `Retry-After`.
        Unavailable = "unavailable";
        /// A code of a newer coordinator: its message says the rest.
        Unknown = "unknown"
    }
);

impl ErrorCode {
    /// The HTTP status of this code.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Kicked | Self::Quarantined | Self::NotAdmitted | Self::WrongSecret | Self::CrossSite => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::Timeout => 408,
            Self::Conflict => 409,
            Self::RoundClosed => 410,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooEarly => 425,
            Self::PreconditionRequired => 428,
            Self::TooMany => 429,
            Self::Internal | Self::Unknown => 500,
            Self::Unavailable => 503,
        }
    }
}

/// The body of every refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ssr", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: names the thing and the bound.
    pub message: String,
    /// Every single problem, where there may be several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
