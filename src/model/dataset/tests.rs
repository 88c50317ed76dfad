use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::Write;
use tempfile::TempDir;

/// What to do about a dataset that is not found.
const REMEDY: &str = "; give the folder or archive with --data, for `fedlearn serve` with --dataset-path";

const IMAGES: &str = "t10k-images-idx3-ubyte";
const LABELS: &str = "t10k-labels-idx1-ubyte";

fn idx(magic: u32, sizes: &[u32], body: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(body);
    bytes
}

fn images_of(count: u32) -> Vec<u8> {
    let body: Vec<u8> = (0..count * 784).map(|i| (i % 251) as u8).collect();
    idx(0x0803, &[count, 28, 28], &body)
}

fn labels_of(labels: &[u8]) -> Vec<u8> {
    idx(0x0801, &[labels.len() as u32], labels)
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

/// What is said of a test split of MNIST in those files, without the folder's name.
fn refusal(files: &[(&str, Vec<u8>)]) -> String {
    let folder = folder(files);
    let error = load(Dataset::Mnist, folder.path(), Split::Test).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn fashion_mnist_is_read_as_published() {
    let path = default_path(Dataset::FashionMnist).expect("`make setup` installs it");
    let train = load(Dataset::FashionMnist, &path, Split::Train).unwrap();
    assert_eq!((train.len(), train.pixels.len(), &train.labels[..4]), (60_000, 60_000 * 784, &[9, 0, 0, 3][..]));
    let test = load(Dataset::FashionMnist, &path, Split::Test).unwrap();
    assert_eq!((test.len(), test.pixels.len(), &test.labels[..4]), (10_000, 10_000 * 784, &[9, 2, 1, 1][..]));
    assert_eq!((test.channels, test.height, test.width, test.classes), (1, 28, 28, 10));
}

#[test]
fn idx_files_may_be_plain_or_compressed() {
    let plain = folder(&[(IMAGES, images_of(2)), (LABELS, labels_of(&[3, 9]))]);
    let packed = folder(&[
        ("t10k-images-idx3-ubyte.gz", gz(&images_of(2))),
        ("t10k-labels-idx1-ubyte.gz", gz(&labels_of(&[3, 9]))),
    ]);
    let read = |folder: &TempDir| load(Dataset::Mnist, folder.path(), Split::Test).unwrap();
    assert_eq!(read(&plain).labels, [3, 9]);
    assert_eq!(read(&plain).pixels[..4], [0, 1, 2, 3]);
    assert_eq!(read(&plain), read(&packed));
}

#[test]
fn a_missing_idx_file_is_named_with_the_names_looked_for() {
    let folder = folder(&[(IMAGES, images_of(1))]);
    let error = load(Dataset::Mnist, folder.path(), Split::Test).unwrap_err();
    let place = folder.path().display();
    assert_eq!(
        error.to_string(),
        format!("{place}: looked for t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz, found none{REMEDY}")
    );
}

#[test]
fn a_wrong_magic_number_is_refused() {
    let said = refusal(&[(IMAGES, labels_of(&[1; 20]))]);
    assert_eq!(said, format!("{IMAGES}: the magic number at byte 0 is 2049, expected 2051"));
}

#[test]
fn images_of_another_size_are_refused() {
    let said = refusal(&[(IMAGES, idx(0x0803, &[1, 28, 32], &[0; 28 * 32]))]);
    assert_eq!(said, format!("{IMAGES}: the number of columns at byte 12 is 32, expected 28"));
}

#[test]
fn a_number_of_images_out_of_bounds_is_refused_before_anything_is_read() {
    for count in [0, 1_000_001, u32::MAX] {
        let said = refusal(&[(IMAGES, idx(0x0803, &[count, 28, 28], &[]))]);
        assert_eq!(said, format!("{IMAGES}: the number of items at byte 4 is {count}, expected 1 to 1000000"));
    }
}

#[test]
fn a_cut_off_header_is_refused() {
    let said = refusal(&[(IMAGES, images_of(1)[..10].to_vec())]);
    assert_eq!(said, format!("{IMAGES}: ends at byte 10, expected 16 bytes"));
}

#[test]
fn a_cut_off_body_is_refused() {
    let said = refusal(&[(IMAGES, images_of(2)[..1000].to_vec())]);
    assert_eq!(said, format!("{IMAGES}: ends at byte 1000, expected 1584 bytes"));
}

#[test]
fn bytes_after_the_end_are_refused() {
    let said = refusal(&[(IMAGES, [images_of(1), vec![0]].concat())]);
    assert_eq!(said, format!("{IMAGES}: goes on at byte 800, where its end was expected"));
}

#[test]
fn a_label_beyond_the_classes_is_refused() {
    let said = refusal(&[(IMAGES, images_of(3)), (LABELS, labels_of(&[0, 9, 10]))]);
    assert_eq!(said, format!("{LABELS}: the label at byte 10 is 10, expected 0 to 9"));
}

#[test]
fn images_and_labels_must_be_equally_many() {
    let said = refusal(&[(IMAGES, images_of(2)), (LABELS, labels_of(&[0, 1, 2]))]);
    assert_eq!(said, format!("{LABELS} has 3 labels, expected 2, one for each image of {IMAGES}"));
}

#[test]
fn a_damaged_archive_is_refused() {
    let name = "t10k-images-idx3-ubyte.gz";
    let said = refusal(&[(name, b"not gzip at all".to_vec())]);
    assert!(said.starts_with(&format!("{name}: ")), "{said}");
}

/// One CIFAR record: its labels, then its image in one grey.
fn record(labels: &[u8], grey: u8) -> Vec<u8> {
    [labels, &[grey; 3072]].concat()
}

fn cifar10_batches() -> Vec<(String, Vec<u8>)> {
    (1..=5u8).map(|i| (format!("cifar-10-batches-bin/data_batch_{i}.bin"), record(&[i], 10 * i))).collect()
}

fn write_archive(place: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    let path = place.join("archive.tar.gz");
    let mut archive = tar::Builder::new(GzEncoder::new(File::create(&path).unwrap(), Compression::fast()));
    for (name, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &body[..]).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
    path
}

#[test]
fn cifar10_is_the_same_from_folder_outer_folder_and_archive() {
    let batches = cifar10_batches();
    let named: Vec<_> = batches.iter().map(|(name, body)| (name.as_str(), body.clone())).collect();
    let outer = folder(&named);
    // In an archive the files may come in any order.
    let archive = write_archive(outer.path(), &batches.into_iter().rev().collect::<Vec<_>>());

    let read = |path: &Path| load(Dataset::Cifar10, path, Split::Train).unwrap();
    let images = read(outer.path());
    assert_eq!(images.labels, [1, 2, 3, 4, 5]);
    assert_eq!((images.pixels[0], images.pixels[4 * 3072]), (10, 50));
    assert_eq!((images.channels, images.height, images.width, images.classes), (3, 32, 32, 10));
    assert_eq!(read(&outer.path().join("cifar-10-batches-bin")), images);
    assert_eq!(read(&archive), images);
}

#[test]
fn cifar100_gives_its_fine_labels() {
    let folder = folder(&[("test.bin", [record(&[19, 99], 1), record(&[0, 5], 2)].concat())]);
    let images = load(Dataset::Cifar100, folder.path(), Split::Test).unwrap();
    assert_eq!((images.labels, images.classes), (vec![99, 5], 100));
}

#[test]
fn a_cifar_file_that_ends_within_a_record_is_refused() {
    let folder = folder(&[("test.bin", [record(&[0, 0], 1), vec![0; 7]].concat())]);
    let error = load(Dataset::Cifar100, folder.path(), Split::Test).unwrap_err().to_string();
    assert!(error.ends_with("test.bin: ends at byte 3081, expected 6148 bytes"), "{error}");
}

#[test]
fn a_cifar_file_longer_than_the_official_one_is_refused() {
    let folder = folder(&[("test_batch.bin", vec![0; 30_730_001])]);
    let error = load(Dataset::Cifar10, folder.path(), Split::Test).unwrap_err().to_string();
    assert!(error.ends_with("test_batch.bin: goes on at byte 30730000, where its end was expected"), "{error}");
}

#[test]
fn a_cifar_label_beyond_the_classes_is_refused_at_its_offset() {
    let folder = folder(&[("test.bin", [record(&[0, 99], 1), record(&[0, 100], 1)].concat())]);
    let error = load(Dataset::Cifar100, folder.path(), Split::Test).unwrap_err().to_string();
    assert!(error.ends_with("test.bin: the label at byte 3075 is 100, expected 0 to 99"), "{error}");
}

#[test]
fn files_missing_from_an_archive_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let archive = write_archive(folder.path(), &cifar10_batches()[..3]);
    let error = load(Dataset::Cifar10, &archive, Split::Train).unwrap_err().to_string();
    assert!(error.contains("looked for data_batch_4.bin, data_batch_5.bin (by itself"), "{error}");
}

#[test]
fn a_path_to_nothing_is_refused_with_the_names_looked_for() {
    let error = load(Dataset::Cifar10, Path::new("/nowhere"), Split::Test).unwrap_err().to_string();
    let looked_for = "test_batch.bin (by itself or in cifar-10-batches-bin/)";
    assert_eq!(error, format!("/nowhere: looked for {looked_for}, found none{REMEDY}"));
}
