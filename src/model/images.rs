//! Images in memory. Knows nothing of files, tensors or clients.

/// Labelled images in memory, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Channels of each image.
    pub channels: usize,
    /// Rows of each image.
    pub height: usize,
    /// Columns of each image.
    pub width: usize,
    /// How many classes labels may name: 0 to classes - 1.
    pub classes: usize,
    /// Pixels, N x C x H x W, row-major.
    pub pixels: Vec<u8>,
    /// One label an image.
    pub labels: Vec<u8>,
}

impl Images {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The images at those indices, in that order; an index may come twice.
    ///
    /// # Panics
    /// If an index is not below [`Self::len`].
    pub fn select(&self, indices: &[usize]) -> Self {
        let size = self.channels * self.height * self.width;
        let mut pixels = Vec::with_capacity(indices.len() * size);
        for &i in indices {
            pixels.extend_from_slice(&self.pixels[i * size..(i + 1) * size]);
        }
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        Self { pixels, labels, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_keeps_pixels_and_labels_together_in_the_order_asked_for() {
        let images = Images {
            channels: 1,
            height: 1,
            width: 2,
            classes: 10,
            pixels: vec![0, 1, 10, 11, 20, 21],
            labels: vec![7, 8, 9],
        };
        let chosen = images.select(&[2, 0]);
        assert_eq!(chosen, Images { pixels: vec![20, 21, 0, 1], labels: vec![9, 7], ..images });
    }
}
