//! Evaluation of global versions on the test split that the coordinator holds.

use crate::model::Device;
use crate::model::{self, Evaluation, Images, Network};
use crate::wire::Parameters;
use app::api::ModelSpec;
use std::sync::{Arc, Mutex, PoisonError};

/// A network to load versions into, and images to try them on.
#[derive(Debug)]
pub(in crate::coordinator) struct Evaluator {
    // One evaluation at a time: the network is loaded anew for each.
    network: Mutex<Network>,
    images: Arc<Images>,
}

impl Evaluator {
    /// Blocking: makes the network.
    pub(in crate::coordinator) fn new(
        spec: &ModelSpec,
        device: Device,
        images: Arc<Images>,
    ) -> Result<Self, model::ModelError> {
        Ok(Self { network: Mutex::new(Network::new(spec, device)?), images })
    }

    /// Blocking: runs the whole test split through these parameters.
    pub(super) fn evaluate(&self, parameters: &Parameters) -> Result<Evaluation, model::ModelError> {
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        network.load(parameters)?;
        model::evaluate(&network, &self.images)
    }
}
