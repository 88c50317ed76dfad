//! The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009, <https://www.cs.toronto.edu/~kriz/cifar.html>):
//! records of one label byte (CIFAR-100: coarse, then fine) and 3 x 32 x 32 pixels, without a header.

use super::{DatasetError, Images, Split, image_shape, open, read_up_to};
use app::api::Dataset;
use flate2::read::MultiGzDecoder;
use std::io::{BufReader, Read};
use std::path::Path;

/// Both archives unpack to under 190 MB.
const MAX_ARCHIVE_BYTES: u64 = 300_000_000;

/// The official files of one split.
struct Layout {
    folder: &'static str,
    files: &'static [&'static str],
    /// Records in each of them, at most: fewer make a smaller dataset, as tests and demonstrations want it.
    max_records: u64,
    /// The last of them is the one to learn.
    label_bytes: usize,
}

impl Layout {
    fn of(dataset: Dataset, split: Split) -> Self {
        const CIFAR10_TRAIN: &[&str] =
            &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
        let (folder, label_bytes) = match dataset {
            Dataset::Cifar100 => ("cifar-100-binary", 2),
            _ => ("cifar-10-batches-bin", 1),
        };
        let (files, max_records): (&[&str], _) = match (dataset, split) {
            (Dataset::Cifar100, Split::Train) => (&["train.bin"], 50_000),
            (Dataset::Cifar100, Split::Test) => (&["test.bin"], 10_000),
            (_, Split::Train) => (CIFAR10_TRAIN, 10_000),
            (_, Split::Test) => (&["test_batch.bin"], 10_000),
        };
        Self { folder, files, max_records, label_bytes }
    }
}

pub(super) fn load(dataset: Dataset, path: &Path, split: Split) -> Result<Images, DatasetError> {
    let layout = Layout::of(dataset, split);
    let (channels, height, width) = image_shape(dataset);
    let record_bytes = layout.label_bytes + channels * height * width;
    let max_bytes = layout.max_records * record_bytes as u64;
    let bodies =
        if path.is_dir() { from_folder(&layout, path, max_bytes)? } else { from_archive(&layout, path, max_bytes)? };

    let classes = dataset.classes() as usize;
    let records = bodies.iter().map(|body| body.len() / record_bytes).sum::<usize>();
    let mut pixels = Vec::with_capacity(records * (record_bytes - layout.label_bytes));
    let mut labels = Vec::with_capacity(records);
    for (name, body) in layout.files.iter().zip(&bodies) {
        let file = || path.join(name);
        let found_bytes = body.len() as u64;
        if found_bytes > max_bytes {
            return Err(DatasetError::TooLong { file: file(), expected_bytes: max_bytes });
        }
        if body.is_empty() || body.len() % record_bytes != 0 {
            let expected_bytes = (found_bytes / record_bytes as u64 + 1) * record_bytes as u64;
            return Err(DatasetError::Truncated { file: file(), expected_bytes, found_bytes });
        }
        for (i, record) in body.chunks_exact(record_bytes).enumerate() {
            let (record_labels, image) = record.split_at(layout.label_bytes);
            let found = record_labels[layout.label_bytes - 1];
            if usize::from(found) >= classes {
                let offset = (i * record_bytes + layout.label_bytes - 1) as u64;
                return Err(DatasetError::Label { file: file(), offset, classes, found });
            }
            labels.push(found);
            pixels.extend_from_slice(image);
        }
    }
    Ok(Images { channels, height, width, classes, pixels, labels })
}

/// The files of the split in the folder, or in the official folder inside it; each cut off one byte past `max_bytes`.
fn from_folder(layout: &Layout, path: &Path, max_bytes: u64) -> Result<Vec<Vec<u8>>, DatasetError> {
    let inner = path.join(layout.folder);
    let folder = if inner.is_dir() { &inner } else { path };
    let read = |name: &&str| {
        let file = folder.join(name);
        if !file.is_file() {
            return Err(missing(layout, path, &[name]));
        }
        read_up_to(open(&file)?, max_bytes + 1, &file)
    };
    layout.files.iter().map(read).collect()
}

/// The files of the split in the official archive, in the layout's order whatever the archive's is; each cut off one
/// byte past `max_bytes`.
fn from_archive(layout: &Layout, path: &Path, max_bytes: u64) -> Result<Vec<Vec<u8>>, DatasetError> {
    let failed = |source| DatasetError::Read { file: path.to_owned(), source };
    if !path.is_file() {
        return Err(missing(layout, path, layout.files));
    }
    let unpacked = MultiGzDecoder::new(BufReader::new(open(path)?)).take(MAX_ARCHIVE_BYTES);
    let mut archive = tar::Archive::new(unpacked);
    let mut bodies: Vec<Option<Vec<u8>>> = layout.files.iter().map(|_| None).collect();
    for entry in archive.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.into_owned();
        let wanted = layout.files.iter().position(|file| name.ends_with(Path::new(layout.folder).join(file)));
        if let Some(body) = wanted.and_then(|i| bodies.get_mut(i))
            && body.is_none()
        {
            *body = Some(read_up_to(entry, max_bytes + 1, &path.join(&name))?);
            if bodies.iter().all(Option::is_some) {
                break;
            }
        }
    }
    let absent: Vec<_> = layout.files.iter().zip(&bodies).filter(|(_, b)| b.is_none()).map(|(name, _)| *name).collect();
    if absent.is_empty() { Ok(bodies.into_iter().flatten().collect()) } else { Err(missing(layout, path, &absent)) }
}

fn missing(layout: &Layout, place: &Path, names: &[&str]) -> DatasetError {
    let looked_for = format!("{} (by itself or in {}/)", names.join(", "), layout.folder);
    DatasetError::Missing { place: place.to_owned(), looked_for }
}
