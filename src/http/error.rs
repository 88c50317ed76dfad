//! Errors as HTTP: one status a code, and a JSON body that names the subject and the limit.

use super::MAX_JSON_BYTES;
use crate::coordinator::{LifecycleError, RunError, StartError, UploadError, VersionError};
use crate::round::Reject;
use crate::run::Refusal;
use crate::store::{BlobError, StoreError};
use app::api::{ErrorBody, ErrorCode};
use axum::extract::rejection::{BytesRejection, FormRejection, JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::error::Error;

/// The error answer of a handler.
#[derive(Debug)]
pub struct ApiError {
    body: ErrorBody,
    retry_after_s: Option<u32>,
}

/// The result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// Replaces the message: nothing of a body that has a secret may be quoted.
    pub fn with_message(mut self, message: &str) -> Self {
        message.clone_into(&mut self.body.message);
        self
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.body.message
    }

    /// An error with its message. Temporary ones have `Retry-After: 1`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retry_after_s = match code {
            ErrorCode::TooMany | ErrorCode::Unavailable | ErrorCode::TooEarly => Some(1),
            _ => None,
        };
        Self { body: ErrorBody { code, message: message.into(), problems: Vec::new() }, retry_after_s }
    }

    /// An error with several problems.
    pub fn with_problems(code: ErrorCode, message: impl Into<String>, problems: Vec<String>) -> Self {
        let mut this = Self::new(code, message);
        this.body.problems = problems;
        this
    }

    /// Replaces `Retry-After`.
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Reading a request's body failed: it was too slow, or was cut off.
    pub fn from_body(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(e) = cause {
            if e.is::<tokio::time::error::Elapsed>() {
                return Self::new(
                    ErrorCode::Timeout,
                    "the body did not arrive in time: the limit is --body-timeout-s of the coordinator, and for JSON 30 s at most",
                );
            }
            cause = e.source();
        }
        Self::new(ErrorCode::BadRequest, format!("the body was cut off: {error}"))
    }

    fn from_status(status: StatusCode, message: String, error: &(dyn Error + 'static)) -> Self {
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("the body is too large: JSON and forms may have at most {MAX_JSON_BYTES} bytes");
                Self::new(ErrorCode::TooLarge, message)
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(ErrorCode::UnsupportedMediaType, message),
            StatusCode::UNPROCESSABLE_ENTITY => Self::new(ErrorCode::Invalid, message),
            _ if error.source().is_some_and(|e| e.source().is_some()) => {
                let timeout = Self::from_body(error);
                if timeout.body.code == ErrorCode::Timeout {
                    timeout
                } else {
                    Self::new(ErrorCode::BadRequest, message)
                }
            }
            _ => Self::new(ErrorCode::BadRequest, message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.body.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.body.code == ErrorCode::Internal {
            tracing::error!(code = %self.body.code, message = self.body.message, "request failed");
        }
        let mut response = (status, axum::Json(self.body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

macro_rules! from_rejection {
    ($($rejection:ty),+) => {$(
        impl From<$rejection> for ApiError {
            fn from(rejection: $rejection) -> Self {
                Self::from_status(rejection.status(), rejection.body_text(), &rejection)
            }
        }
    )+};
}
from_rejection!(BytesRejection, FormRejection, JsonRejection, PathRejection, QueryRejection);

impl From<Reject> for ApiError {
    fn from(reject: Reject) -> Self {
        let code = match &reject {
            Reject::UnknownClient(_) | Reject::NoSuchRound { .. } => ErrorCode::NotFound,
            Reject::Kicked(_) | Reject::Banned(_) => ErrorCode::Kicked,
            Reject::Quarantined(_) => ErrorCode::Quarantined,
            Reject::TooManySamples { .. } => ErrorCode::Invalid,
            Reject::NotAdmitted(_) | Reject::NotInCohort { .. } => ErrorCode::NotAdmitted,
            Reject::RoundClosed { .. } => ErrorCode::RoundClosed,
            Reject::TooEarly { .. } => ErrorCode::TooEarly,
            Reject::AlreadyUpdated { .. }
            | Reject::TooFewClients { .. }
            | Reject::RoundInWork { .. }
            | Reject::NoRound
            | Reject::TooFewUpdates { .. }
            | Reject::NotAggregating => ErrorCode::Conflict,
            Reject::RosterFull(_) | Reject::Aggregating { .. } => ErrorCode::Unavailable,
        };
        Self::new(code, reject.to_string())
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        let message = error.to_string();
        match error {
            RunError::Refusal(refusal) => match refusal {
                Refusal::Reject(reject) => reject.into(),
                Refusal::Store(error) => error.into(),
                Refusal::Fault(_) => Self::new(ErrorCode::Invalid, message),
                Refusal::BadConfig(problems) => Self::with_problems(ErrorCode::Invalid, message, problems),
                Refusal::ConfigChanged { .. } => Self::new(ErrorCode::PreconditionFailed, message),
                Refusal::Stopping => Self::new(ErrorCode::Unavailable, message),
            },
            RunError::Busy { .. } | RunError::Blocked(_) => Self::new(ErrorCode::Unavailable, message),
            RunError::Version(error) => error.into(),
            RunError::Upload(error) => error.into(),
            RunError::Retired(retired) if retired.is_archived => Self::new(ErrorCode::Conflict, message),
            RunError::Retired(_) => Self::new(ErrorCode::NotFound, message),
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let message = error.to_string();
        match error {
            UploadError::Rejected(_) => Self::new(ErrorCode::Invalid, message),
            UploadError::LargerThanModel { .. } | UploadError::LargerThanSetting { .. } => {
                Self::new(ErrorCode::TooLarge, message)
            }
            UploadError::TooMany { .. } => Self::new(ErrorCode::TooMany, message),
            UploadError::Offset { .. } | UploadError::Superseded => Self::new(ErrorCode::Conflict, message),
            UploadError::Version(error) => error.into(),
            UploadError::Store(error) => error.into(),
            UploadError::Internal(_) => Self::new(ErrorCode::Internal, message),
        }
    }
}

impl From<StoreError> for ApiError {
    /// 503: a full disk and a locked database are temporary.
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::new(ErrorCode::Unavailable, error.to_string())
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        StoreError::from(error).into()
    }
}

impl From<VersionError> for ApiError {
    fn from(error: VersionError) -> Self {
        let message = error.to_string();
        match error {
            VersionError::NoVersion(_) => Self::new(ErrorCode::NotFound, message),
            VersionError::Busy(_) | VersionError::Full { .. } => Self::new(ErrorCode::Unavailable, message),
            VersionError::Store(error) => error.into(),
            VersionError::Unreadable { .. } | VersionError::Unwritable { .. } => {
                Self::new(ErrorCode::Internal, message)
            }
        }
    }
}

impl From<LifecycleError> for ApiError {
    fn from(error: LifecycleError) -> Self {
        let message = error.to_string();
        match error {
            LifecycleError::NoRun(_) => Self::new(ErrorCode::NotFound, message),
            LifecycleError::InWork { .. } => Self::new(ErrorCode::Conflict, message),
            LifecycleError::Run(error) => error.into(),
            LifecycleError::Store(error) => error.into(),
            LifecycleError::Start(error) => error.into(),
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::Exists(_) | StartError::TooMany { .. } => Self::new(ErrorCode::Conflict, message),
            StartError::Bad(problems) => Self::with_problems(ErrorCode::Invalid, message, problems),
            StartError::Store(error) => error.into(),
            StartError::Model { .. } | StartError::Dataset { .. } | StartError::Unreadable { .. } => {
                Self::new(ErrorCode::Internal, message)
            }
        }
    }
}
