//! What can go wrong with a network.

use crate::wire::SchemaError;
use tch::TchError;

/// Why a network was not built, loaded, trained or evaluated.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A CUDA device that is not there.
    #[error(
        "there is no device cuda:{index}: {cuda_devices} CUDA devices are visible; choose one of them, cpu or auto with --device"
    )]
    NoSuchDevice {
        /// Which was asked for.
        index: usize,
        /// How many there are.
        cuda_devices: usize,
    },
    /// The specification of the network is out of bounds.
    #[error("no such network: {}", .0.join("; "))]
    Spec(Vec<String>),
    /// The network's own variables make no schema.
    #[error("the network has no schema: {0}")]
    Schema(#[from] SchemaError),
    /// Parameters of another network.
    #[error("the parameters are of another network: {found} tensors instead of {expected}, first difference: {first}")]
    OtherSchema {
        /// Tensors given.
        found: usize,
        /// Tensors the network has.
        expected: usize,
        /// Where the two part, for a person.
        first: String,
    },
    /// There is nothing to train on or to evaluate on.
    #[error("there are no images to train or evaluate on")]
    NoImages,
    /// The pixels are not as many as shape and labels say.
    #[error("{found} bytes of pixels, the images' shape and number ask for {expected}")]
    PixelBytes {
        /// Bytes given.
        found: usize,
        /// Images x channels x height x width.
        expected: usize,
    },
    /// Grey images for a network of colour images, or the other way round.
    #[error("the images have {found} channels, the network takes {expected}")]
    Channels {
        /// Channels of the images.
        found: usize,
        /// Channels of the network.
        expected: u32,
    },
    /// A label that the network has no output for.
    #[error("a label is {label}, the network tells classes 0 to {} apart", .classes - 1)]
    Label {
        /// The label.
        label: u8,
        /// Classes of the network.
        classes: u32,
    },
    /// A count in the training configuration is 0.
    #[error("{0} is 0, at least 1 is needed")]
    ZeroConfig(&'static str),
    /// Batch normalisation has no variance over a single value.
    #[error("a batch of one image leaves one value a channel, which cannot be normalised: use a larger batch_size")]
    BatchOfOne,
    /// Training diverged.
    #[error("the training loss is {loss} in epoch {epoch}, batch {batch}: the learning rate may be too high")]
    LossNotFinite {
        /// NaN or an infinity.
        loss: f64,
        /// From 1.
        epoch: u32,
        /// From 1.
        batch: u32,
    },
    /// Libtorch refused: out of memory, as a rule.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
}
