//! The upload of an update: begun, written and committed.

use super::error::RunError;
use super::handle::RunHandle;
use super::health::Storage;
use crate::coordinator::uploads::{CheckedUpdate, Place, Rejection, SizeLimit, Transfer, UploadError, UploadKey};
use crate::digest::Sha256Digest;
use crate::round::{Command, Received, Reject};
use crate::run::{Expectation, Receipt, Refusal};
use crate::wire::BodyFormat;
use app::api::ClientId;
use bytes::Bytes;
use futures::FutureExt;
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

/// A client that sends is not offline, however long that takes.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a request announces before its body.
#[derive(Debug, Clone, Copy)]
pub struct Announced {
    /// The format of the body.
    pub format: BodyFormat,
    /// SHA-256 of the whole body, if the client announces it: then the upload can be resumed.
    pub sha256: Option<Sha256Digest>,
    /// Where in the whole body this request begins.
    pub offset: u64,
    /// Length of this request's body, if the client announces it.
    pub content_length: Option<u64>,
}

/// An update that a request sends. Dropped before it is committed, it can be resumed by a later request if its SHA-256 was
/// announced.
#[derive(Debug)]
pub struct Upload {
    run: RunHandle,
    client: ClientId,
    round: u64,
    limit: SizeLimit,
    body: Body,
    last_heartbeat: Instant,
    _place: Place,
}

#[derive(Debug)]
enum Body {
    /// It is awaited.
    Awaited(Transfer),
    /// An update of the client is stored already: whether this is the same is known at its end.
    Repeated { stored: Sha256Digest, announced: Announced, hash: Sha256, bytes: u64 },
}

/// What is stored of a committed update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Whether it was counted now or before.
    pub receipt: Receipt,
    /// SHA-256 of the whole body.
    pub sha256: Sha256Digest,
    /// Its length.
    pub bytes: u64,
}

impl RunHandle {
    /// Begins to receive an update. Waits for the next round if that accepts it, and for an earlier request that sends the
    /// same update.
    ///
    /// # Errors
    /// It would not be accepted, it is too large, too many uploads are received, or it cannot be resumed at that offset.
    pub async fn begin_upload(&self, client: &ClientId, round: u64, announced: Announced) -> Result<Upload, RunError> {
        let Announced { format, sha256, offset, content_length } = announced;
        let expectation = self.expect(client, round).await?;
        let limit = self.size_limit();
        if let Err(error) = limit.check(offset.saturating_add(content_length.unwrap_or(0))) {
            return Err(self.rejected(client, round, error).await);
        }
        let place = self.parts().places.take(self.run(), client)?;
        let body = match expectation {
            Expectation::AlreadyCounted(stored) => Body::Repeated { stored, announced, hash: Sha256::new(), bytes: 0 },
            Expectation::Awaited { version } => {
                let key = sha256.map(|sha256| UploadKey { round, sha256, format });
                let transfer = self.uploads().transfer(client, key, (format, version), offset).await;
                Body::Awaited(self.recorded(transfer)?)
            }
        };
        let (run, client, last_heartbeat) = (self.clone(), client.clone(), Instant::now());
        Ok(Upload { run, client, round, limit, body, last_heartbeat, _place: place })
    }

    /// Shows to the operator why an upload was rejected, and returns the error.
    async fn rejected(&self, client: &ClientId, round: u64, error: UploadError) -> RunError {
        if let Some(Rejection { reason, strike }) = error.rejection() {
            // That the run stops, or the client is kicked meanwhile, does not change the response.
            let _ = self.command(Command::Rejected { client: client.clone(), round, reason, strike }).await;
        }
        error.into()
    }

    /// Records in the run's health whether a file could be written.
    fn recorded<T>(&self, written: Result<T, UploadError>) -> Result<T, UploadError> {
        if let Err(UploadError::Store(error)) = &written {
            self.feed().not_stored(Storage::Files, self.parts().clock.now_ms(), error);
        }
        written
    }
}

impl Upload {
    /// Waits for something, unless another request resumes the upload.
    ///
    /// # Errors
    /// Another request resumes it.
    pub async fn unless_superseded<T>(&self, wait: impl Future<Output = T>) -> Result<T, RunError> {
        let Body::Awaited(transfer) = &self.body else { return Ok(wait.await) };
        tokio::select! {
            biased;
            () = transfer.superseded() => Err(UploadError::Superseded.into()),
            result = wait => Ok(result),
        }
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// It is too large, or is rejected whatever the remaining bytes are; or the file system, or the run cannot answer now.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), RunError> {
        match &mut self.body {
            Body::Repeated { hash, bytes, announced, .. } => {
                hash.update(&chunk);
                *bytes += chunk.len() as u64;
                self.limit.check(announced.offset + *bytes)?;
            }
            Body::Awaited(transfer) => {
                if let Err(error) = self.run.recorded(transfer.append(chunk, self.limit).await) {
                    return Err(self.run.rejected(&self.client, self.round, error).await);
                }
                if self.last_heartbeat.elapsed() > HEARTBEAT {
                    self.run.command(Command::Seen { client: self.client.clone() }).await?;
                    self.last_heartbeat = Instant::now();
                }
            }
        }
        Ok(())
    }

    /// The whole body is written: checks the rest, makes it durable and counts the update.
    ///
    /// # Errors
    /// It is rejected, or another update of the client is counted; nothing of it is stored then. Or the file system, or the
    /// run cannot answer now.
    pub async fn commit(mut self, samples: u64, loss: Option<f64>) -> Result<Committed, RunError> {
        let transfer = match &mut self.body {
            Body::Awaited(transfer) => transfer,
            Body::Repeated { stored, announced, hash, bytes } => {
                let (sha256, bytes) = (*stored, announced.offset + *bytes);
                let is_same = sha256 == Sha256Digest(hash.clone().finalize().into())
                    || announced.offset > 0 && announced.sha256 == Some(sha256);
                let other = Reject::AlreadyUpdated { client: self.client.clone(), round: self.round };
                let committed = Committed { receipt: Receipt::Again, sha256, bytes };
                return if is_same { Ok(committed) } else { Err(other.into()) };
            }
        };
        let checked = match self.run.recorded(transfer.finish(&self.run.parts().store).await) {
            Ok(checked) => checked,
            Err(error) => return Err(self.run.rejected(&self.client, self.round, error).await),
        };
        self.run.feed().stored(Storage::Files);
        let (sha256, bytes) = (checked.body.sha256, checked.body.bytes);
        let receipt = self.count(checked, samples, loss).await?;
        Ok(Committed { receipt, sha256, bytes })
    }

    async fn count(&self, checked: CheckedUpdate, samples: u64, loss: Option<f64>) -> Result<Receipt, RunError> {
        let (client, round) = (self.client.clone(), self.round);
        self.run.expect(&client, round).await?; // waits for the next round if that accepts it
        let CheckedUpdate { spool, body, norm } = checked;
        let received = Received { samples, loss, norm, body };
        // Unconditional: the update is durable and awaited, so it counts even if this request ends before.
        let counting = self.run.send(true, move |run| {
            async move {
                spool.keep(); // before it is stored, so that what is stored finds its file
                let counted = run.update(&client, round, received).await;
                if !matches!(counted, Ok(Receipt::Counted) | Err(Refusal::Stopping)) {
                    spool.discard();
                }
                Ok(counted?)
            }
            .boxed()
        });
        counting.await
    }
}
