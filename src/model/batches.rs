//! Images on the device, batch by batch.

use super::{Images, ModelError, Network};
use tch::{Kind, Tensor};

/// Images on a network's device, known to fit the network. They stay bytes until a batch is used: a quarter of the
/// memory of f32.
pub(super) struct DeviceImages {
    /// N x C x H x W bytes.
    pub(super) pixels: Tensor,
    /// N class numbers, i64.
    pub(super) labels: Tensor,
}

impl DeviceImages {
    /// Checks what libtorch would not survive: on CUDA, a label out of range ends every later operation as well.
    pub(super) fn new(images: &Images, network: &Network) -> Result<Self, ModelError> {
        let spec = network.spec();
        let shape = [images.len(), images.channels, images.height, images.width];
        let expected = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).unwrap_or(usize::MAX);
        let Some(&label) = images.labels.iter().max() else { return Err(ModelError::NoImages) };
        if images.pixels.len() != expected {
            return Err(ModelError::PixelBytes { found: images.pixels.len(), expected });
        }
        if images.channels != spec.channels as usize {
            return Err(ModelError::Channels { found: images.channels, expected: spec.channels });
        }
        if u32::from(label) >= spec.classes {
            return Err(ModelError::Label { label, classes: spec.classes });
        }
        let device = network.device();
        let pixels = Tensor::f_from_slice(&images.pixels)?.f_view(shape.map(|n| n as i64))?.f_to_device(device)?;
        let labels = Tensor::f_from_slice(&images.labels)?.f_to_device(device)?.f_to_kind(Kind::Int64)?;
        Ok(Self { pixels, labels })
    }
}

/// Bytes 0 to 255 to f32 -1 to 1: one scale for every dataset, so that coordinator and clients agree without having
/// to exchange statistics of data that the clients keep to themselves.
pub(super) fn normalise(pixels: &Tensor) -> Result<Tensor, ModelError> {
    Ok(pixels.f_to_kind(Kind::Float)?.f_mul_scalar_(1.0 / 127.5)?.f_sub_scalar_(1.0)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_scaled_to_minus_one_to_one() {
        let scaled = normalise(&Tensor::from_slice(&[0u8, 255])).unwrap();
        assert_eq!(Vec::<f32>::try_from(scaled).unwrap(), [-1.0, 1.0]);
    }
}
