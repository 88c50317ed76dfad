//! What the conductor has stored of a run, as the statements of the database.

use crate::conductor::{Record, Update, World};
use crate::digest::Sha256Digest;
use crate::round::Closed;
use crate::store::{NewContribution, NewVersion, Store, StoreError, StoredUpdate};
use app::api::RunId;

/// Stores one record in one transaction. `stored_update` says what is kept of an update and its body, `digest_of` names the
/// blob of a model.
///
/// # Errors
/// The database; then nothing is stored.
pub async fn save<W: World>(
    store: &Store,
    run: &RunId,
    record: &Record<'_, W>,
    stored_update: impl Fn(&Update<W::Body>) -> StoredUpdate,
    digest_of: impl Fn(&W::Model) -> Sha256Digest,
) -> Result<(), StoreError> {
    match record {
        Record::Joined { client, token } => store.add_client(run, client, *token).await,
        Record::Client { client, banned } => store.update_client(run, client, *banned).await,
        Record::HeartbeatsBegan { client } => store.heartbeats_began(run, client).await,
        Record::Left { client } => store.remove_client(run, client).await,
        Record::RoundOpened { round, assignments } => {
            let cohort = round.cohort.iter().zip(*assignments).map(|(id, a)| (id.clone(), a.round, a.version));
            store.open_round(run, round, cohort.collect::<Vec<_>>()).await
        }
        Record::Asked { round, client, assignment } => {
            store.ask(run, *round, client, assignment.round, assignment.version).await
        }
        Record::Update { round, update, at_ms } => {
            let stored = stored_update(update);
            let new = NewContribution { round: *round, client: &update.client, update: stored, received_ms: *at_ms };
            store.add_contribution(run, new).await
        }
        Record::Dropped { round, client, is_open } => store.drop_contribution(run, *round, client, *is_open).await,
        Record::Deadline { round, deadline_ms } => store.move_deadline(run, *round, *deadline_ms).await,
        Record::Closed { round, closed: Closed { at_ms, reason, by_operator, rejected } } => {
            store.close_round(run, *round, *at_ms, reason, *by_operator, rejected).await
        }
        Record::RoundEnded { summary, model, autorun_rounds } => {
            let version = model.zip(summary.version).map(|((model, is_best), version)| NewVersion {
                version,
                sha256: digest_of(model),
                test_accuracy: summary.test_accuracy,
                is_best,
            });
            store.end_round(run, summary, version, *autorun_rounds).await
        }
        Record::Autorun { rounds } => store.set_autorun(run, *rounds).await,
        Record::Config { version, config, at_ms } => store.add_config(run, *version, config, *at_ms).await,
        Record::Event { kind, client, round, detail, at_ms } => {
            let noted = store.log_event(run, *at_ms, kind, *client, *round, detail).await;
            noted.inspect_err(|error| tracing::warn!(%run, %error, "cannot note an event"))
        }
    }
}
