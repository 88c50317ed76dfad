//! Labelled images in memory.

/// Labelled images in memory, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Colour channels of each image.
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

    /// The images at these indices, in their order.
    ///
    /// # Panics
    /// If an index is out of range.
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
