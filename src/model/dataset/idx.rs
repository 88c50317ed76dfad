//! The IDX files of MNIST (LeCun et al., <http://yann.lecun.com/exdb/mnist/>) and Fashion-MNIST (Xiao et al. 2017,
//! arXiv:1708.07747): big-endian u32 magic, big-endian u32 sizes, then bytes.

use super::{DatasetError, Images, Split, image_shape, open, read_up_to};
use app::api::Dataset;
use flate2::read::MultiGzDecoder;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Unsigned bytes in one dimension, and in three.
const LABELS_MAGIC: u32 = 0x0801;
const IMAGES_MAGIC: u32 = 0x0803;
/// More than any dataset of this layout has; EMNIST, the largest, has 814,255.
const MAX_ITEMS: u32 = 1_000_000;

pub(super) fn load(dataset: Dataset, folder: &Path, split: Split) -> Result<Images, DatasetError> {
    let prefix = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let (channels, height, width) = image_shape(dataset);
    let classes = dataset.classes() as usize;

    let image_file = find(folder, &format!("{prefix}-images-idx3-ubyte"))?;
    let pixels = read(
        &image_file,
        IMAGES_MAGIC,
        &[("the number of rows", height as u32), ("the number of columns", width as u32)],
    )?;
    let label_file = find(folder, &format!("{prefix}-labels-idx1-ubyte"))?;
    let labels = read(&label_file, LABELS_MAGIC, &[])?;

    let images = (pixels.len() / (channels * height * width)) as u64;
    if images != labels.len() as u64 {
        return Err(DatasetError::Counts { image_file, label_file, images, labels: labels.len() as u64 });
    }
    if let Some((i, &found)) = labels.iter().enumerate().find(|&(_, &label)| usize::from(label) >= classes) {
        return Err(DatasetError::Label { file: label_file, offset: 8 + i as u64, classes, found });
    }
    Ok(Images { channels, height, width, classes, pixels, labels })
}

fn find(folder: &Path, name: &str) -> Result<PathBuf, DatasetError> {
    let gz = format!("{name}.gz");
    [name, &gz]
        .iter()
        .map(|name| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| DatasetError::Missing { place: folder.to_owned(), looked_for: format!("{name} or {gz}") })
}

/// The bytes after the header, once magic, dimensions, number of items and the file's length are as the layout has them.
fn read(path: &Path, magic: u32, dimensions: &[(&'static str, u32)]) -> Result<Vec<u8>, DatasetError> {
    let file = BufReader::new(open(path)?);
    let mut source: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(MultiGzDecoder::new(file)),
        _ => Box::new(file),
    };
    let header_bytes = 8 + 4 * dimensions.len() as u64;
    let header = read_up_to(&mut source, header_bytes, path)?;
    let truncated =
        |expected_bytes, found_bytes| DatasetError::Truncated { file: path.to_owned(), expected_bytes, found_bytes };
    let mut fields = header.chunks_exact(4).zip((0u64..).step_by(4));
    let mut field = |name: &'static str, low: u32, high: u32| {
        let (bytes, offset) = fields.next().ok_or_else(|| truncated(header_bytes, header.len() as u64))?;
        let found = bytes.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
        if (low..=high).contains(&found) {
            return Ok(u64::from(found));
        }
        let expected = if low == high { low.to_string() } else { format!("{low} to {high}") };
        Err(DatasetError::Header { file: path.to_owned(), field: name, offset, expected, found: found.into() })
    };
    field("the magic number", magic, magic)?;
    let items = field("the number of items", 1, MAX_ITEMS)?;
    let mut item_bytes = 1u64;
    for &(name, size) in dimensions {
        item_bytes *= field(name, size, size)?;
    }

    // At most 10^6 times 28 * 28: far from overflow.
    let body_bytes = items * item_bytes;
    let body = read_up_to(&mut source, body_bytes + 1, path)?;
    let found_bytes = body.len() as u64;
    if found_bytes < body_bytes {
        return Err(truncated(header_bytes + body_bytes, header_bytes + found_bytes));
    }
    if found_bytes > body_bytes {
        return Err(DatasetError::TooLong { file: path.to_owned(), expected_bytes: header_bytes + body_bytes });
    }
    Ok(body)
}
