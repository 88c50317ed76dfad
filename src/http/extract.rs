//! axum's extractors with the API's errors, and the run that a path names.

use super::AppState;
use super::error::ApiError;
use crate::coordinator::{Hosted, RunHandle};
use app::api::{ErrorCode, RunId};
use axum::extract::{FromRequest, FromRequestParts, Path};
use axum::http::request::Parts;

#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(ApiError))]
pub struct ApiJson<T>(pub T);

#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(ApiError))]
pub struct ApiPath<T>(pub T);

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub struct ApiQuery<T>(pub T);

/// The run that the path names.
pub struct Run(pub RunHandle);

impl FromRequestParts<AppState> for Run {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct RunPath {
            run: RunId,
        }
        let Path(RunPath { run }) = Path::from_request_parts(parts, state).await?;
        match state.coordinator.hosted(&run) {
            Some(Hosted::Running(handle)) => Ok(Self(handle)),
            Some(Hosted::Unreadable(reason)) => Err(ApiError::new(ErrorCode::Unavailable, reason)),
            None => {
                let known: Vec<_> = state.coordinator.lines().into_iter().map(|line| line.run.to_string()).collect();
                let message = format!("there is no run '{run}': the runs are {}", known.join(", "));
                Err(ApiError::new(ErrorCode::NotFound, message))
            }
        }
    }
}
