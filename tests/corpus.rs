//! Replays the corpus of the fuzz targets (`make fuzz`), with the stable toolchain and without cargo-fuzz.

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::path::Path;

/// Runs a target on each input of its corpus, which must have some that it accepts and some that it refuses.
fn replay(name: &str, target: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let (mut accepted, mut refused, mut failed) = (0, 0, Vec::new());
    for file in std::fs::read_dir(&folder).expect("the corpus") {
        let path = file.expect("a file").path();
        let input = std::fs::read(&path).expect("an input");
        match std::panic::catch_unwind(|| target(&input)) {
            Ok(true) => accepted += 1,
            Ok(false) => refused += 1,
            Err(_) => failed.push(path),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    assert!(
        accepted >= 10 && refused >= 10,
        "{accepted} inputs accepted and {refused} refused: the corpus has lost its reach"
    );
}

#[test]
fn container() {
    replay("container", targets::container);
}

#[test]
fn safetensors() {
    replay("safetensors", targets::safetensors);
}

#[test]
fn header() {
    replay("header", targets::header);
}
