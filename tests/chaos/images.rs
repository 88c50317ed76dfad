//! Fashion-MNIST, the beginning of it: a coordinator that tests on 10,000 images spends most of a round on that.

use app::api::Dataset;
use fedlearn::model::dataset::{self, Split, default_path};
use std::fs;
use std::path::Path;

/// Images to train on, of all agents together, and to test on.
const KEPT: [(Split, &str, usize); 2] = [(Split::Train, "train", 8_000), (Split::Test, "t10k", 2_000)];

/// Writes it into that folder, in the layout that it has.
pub fn write(folder: &Path) {
    let whole = default_path(Dataset::FashionMnist).expect("Fashion-MNIST lies where `make setup` puts it");
    for (split, prefix, count) in KEPT {
        let images = dataset::load(Dataset::FashionMnist, &whole, split).unwrap();
        let size = images.height * images.width;
        let head = |fields: &[usize]| Vec::from_iter(fields.iter().flat_map(|field| (*field as u32).to_be_bytes()));
        let pixels = [head(&[0x0803, count, images.height, images.width]), images.pixels[..count * size].to_vec()];
        let labels = [head(&[0x0801, count]), images.labels[..count].to_vec()];
        fs::write(folder.join(format!("{prefix}-images-idx3-ubyte")), pixels.concat()).unwrap();
        fs::write(folder.join(format!("{prefix}-labels-idx1-ubyte")), labels.concat()).unwrap();
    }
}
