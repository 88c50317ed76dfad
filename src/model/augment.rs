//! Random crops and horizontal flips, as one gather over a batch.

use super::ModelError;
use rand::{Rng, RngExt};
use tch::Tensor;

/// Black pixels put around each image before it is cropped back to its size.
const PADDING: usize = 4;

/// How one image of a batch is seen.
#[derive(Debug, Clone, Copy)]
struct View {
    /// Rows between the top of the padded image and that of the crop: 0 to twice the padding.
    down: usize,
    /// Columns between the left of the padded image and that of the crop.
    right: usize,
    mirrored: bool,
}

/// Crops each image of N x C x H x W bytes at random out of its padded self, and mirrors every other one on average
/// (the usual augmentation for CIFAR, as in He et al. 2015, arXiv:1512.03385, section 4.2).
pub(super) fn augment(batch: &Tensor, rng: &mut impl Rng) -> Result<Tensor, ModelError> {
    let images = batch.size4()?.0;
    let views: Vec<_> = (0..images)
        .map(|_| View {
            down: rng.random_range(0..=2 * PADDING),
            right: rng.random_range(0..=2 * PADDING),
            mirrored: rng.random(),
        })
        .collect();
    apply(batch, &views)
}

fn apply(batch: &Tensor, views: &[View]) -> Result<Tensor, ModelError> {
    let (images, channels, height, width) = batch.size4()?;
    let mut rows = Vec::new();
    let mut columns = Vec::new();
    for view in views {
        rows.extend((0..height).map(|y| view.down as i64 + y));
        columns.extend((0..width).map(|x| view.right as i64 + if view.mirrored { width - 1 - x } else { x }));
    }
    let pad = PADDING as i64;
    let padded = batch.f_constant_pad_nd([pad, pad, pad, pad])?;
    // Four indices that broadcast to N x C x H x W.
    let index =
        |values: Vec<i64>, shape: [i64; 4]| Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_device(batch.device());
    Ok(padded.f_index(&[
        Some(index((0..images).collect(), [images, 1, 1, 1])?),
        Some(index((0..channels).collect(), [1, channels, 1, 1])?),
        Some(index(rows, [images, 1, height, 1])?),
        Some(index(columns, [images, 1, 1, width])?),
    ])?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use tch::{IndexOp, Kind};

    const CENTRE: View = View { down: PADDING, right: PADDING, mirrored: false };

    fn batch() -> Tensor {
        Tensor::arange(2 * 3 * 6 * 5, (Kind::Uint8, tch::Device::Cpu)).view([2, 3, 6, 5])
    }

    #[test]
    fn the_centre_view_is_the_image_itself() {
        assert_eq!(apply(&batch(), &[CENTRE; 2]).unwrap(), batch());
    }

    #[test]
    fn a_mirrored_view_is_flipped_left_to_right_and_alone_in_that() {
        let seen = apply(&batch(), &[CENTRE, View { mirrored: true, ..CENTRE }]).unwrap();
        assert_eq!(seen.i(0), batch().i(0));
        assert_eq!(seen.i(1), batch().i(1).flip([2]));
    }

    #[test]
    fn a_shifted_view_moves_every_channel_and_brings_in_black() {
        // One row down and two columns left of the centre.
        let seen = apply(&batch(), &[View { down: PADDING + 1, right: PADDING - 2, mirrored: false }; 2]).unwrap();
        assert_eq!(seen.i((.., .., ..5, 2..)), batch().i((.., .., 1.., ..3)));
        assert_eq!(seen.i((.., .., 5.., ..)).max().int64_value(&[]), 0);
        assert_eq!(seen.i((.., .., .., ..2)).max().int64_value(&[]), 0);
    }

    #[test]
    fn random_views_keep_shape_and_kind_and_follow_the_seed() {
        let seen = |seed| augment(&batch(), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        assert_eq!((seen(1).size(), seen(1).kind()), (batch().size(), Kind::Uint8));
        assert_eq!(seen(1), seen(1));
        assert_ne!(seen(1), seen(2));
    }
}
