//! Reads the datasets known by name from their official files. Downloads nothing.
//!
//! Every size is checked against the layout before memory is allocated for it, and decompression stops one byte after the
//! expected end.

mod cifar;
mod idx;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use super::Images;
use app::api::Dataset;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Which part of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// What clients train on.
    Train,
    /// What the coordinator evaluates on.
    Test,
}

/// Why a dataset could not be read. Offsets count bytes of the uncompressed file, from 0.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// None of the names under which it may lie exists.
    #[error("{}: looked for {looked_for}, found none; give the folder or archive with --data, for `fedlearn serve` with --dataset-path", .place.display())]
    Missing {
        /// The folder or archive.
        place: PathBuf,
        /// The names, for a person.
        looked_for: String,
    },
    /// It could not be read or decompressed.
    #[error("{}: {source}", .file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A field of the header is not what the layout asks for.
    #[error("{}: {field} at byte {offset} is {found}, expected {expected}", .file.display())]
    Header {
        /// Which file.
        file: PathBuf,
        /// What the field means.
        field: &'static str,
        /// Where it is.
        offset: u64,
        /// The values it may have.
        expected: String,
        /// The value it has.
        found: u64,
    },
    /// It ends too early.
    #[error("{}: ends at byte {found_bytes}, expected {expected_bytes} bytes", .file.display())]
    Truncated {
        /// Which file.
        file: PathBuf,
        /// How long it should be.
        expected_bytes: u64,
        /// How long it is.
        found_bytes: u64,
    },
    /// It goes on after its end.
    #[error("{}: goes on at byte {expected_bytes}, where its end was expected", .file.display())]
    TooLong {
        /// Which file.
        file: PathBuf,
        /// How long it should be, at most.
        expected_bytes: u64,
    },
    /// A label names no class.
    #[error("{}: the label at byte {offset} is {found}, expected 0 to {}", .file.display(), .classes - 1)]
    Label {
        /// Which file.
        file: PathBuf,
        /// Where it is.
        offset: u64,
        /// How many classes there are.
        classes: usize,
        /// The label.
        found: u8,
    },
    /// Two files that belong together disagree on the number of images.
    #[error("{} has {labels} labels, expected {images}, one for each image of {}", .label_file.display(), .image_file.display())]
    Counts {
        /// The file with the images.
        image_file: PathBuf,
        /// The file with the labels.
        label_file: PathBuf,
        /// How many images.
        images: u64,
        /// How many labels.
        labels: u64,
    },
}

/// Reads one split of a dataset.
///
/// - Fashion-MNIST, MNIST: `path` is the folder with the IDX files under their official names, plain or `.gz`.
/// - CIFAR-10, CIFAR-100: `path` is the folder with the `.bin` files, the folder around it, or the official `.tar.gz`
///   of the binary version. CIFAR-100 gives its fine labels.
///
/// # Errors
/// See [`DatasetError`].
pub fn load(dataset: Dataset, path: &Path, split: Split) -> Result<Images, DatasetError> {
    match dataset {
        Dataset::FashionMnist | Dataset::Mnist => idx::load(dataset, path, split),
        Dataset::Cifar10 | Dataset::Cifar100 => cifar::load(dataset, path, split),
    }
}

/// Where a dataset lies if nobody says: Debian's place for datasets, then the one that `make setup` fills.
pub fn default_path(dataset: Dataset) -> Option<PathBuf> {
    ["/usr/share/datasets", ".tools"].iter().map(|place| Path::new(place).join(dataset.as_str())).find(|p| p.is_dir())
}

/// An image's channels, height and width as sizes in memory.
fn image_shape(dataset: Dataset) -> (usize, usize, usize) {
    let (channels, height, width) = dataset.image_shape();
    (channels as usize, height as usize, width as usize)
}

fn open(file: &Path) -> Result<File, DatasetError> {
    File::open(file).map_err(|source| DatasetError::Read { file: file.to_owned(), source })
}

/// Reads to the end, or `max_bytes`. Memory grows with what is really there, not with what a header claims.
fn read_up_to(source: impl Read, max_bytes: u64, file: &Path) -> Result<Vec<u8>, DatasetError> {
    let mut bytes = Vec::new();
    match source.take(max_bytes).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(source) => Err(DatasetError::Read { file: file.to_owned(), source }),
    }
}
