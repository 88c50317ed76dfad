//! Keeps `tests/golden`: bodies in each encoding with the values that they stand for, which clients in other languages
//! read (`clients/python`), and bodies that such a client has written.
//!
//! Every `*.params` is told by what is in `base.safetensors`, version 5, where it needs a base. `f32.safetensors` is also the
//! update that all of them were written from. `UPDATE_GOLDEN=1 cargo test --no-default-features --lib golden` writes
//! anew what is ours; a diff of these files is a change of the format, or of zstd's or ChaCha's version.

use super::*;
use std::path::PathBuf;

const BASE_VERSION: u64 = 5;

/// File name, encoding, values in a full block. The small blocks end within tensors and groups; 333 is odd.
const CASES: [(&str, Encoding, usize); 8] = [
    ("f32", Encoding::F32, MAX_BLOCK_VALUES),
    ("bf16", Encoding::Bf16, MAX_BLOCK_VALUES),
    ("bf16-delta", Encoding::Bf16Delta, MAX_BLOCK_VALUES),
    ("q8", Encoding::Q8, MAX_BLOCK_VALUES),
    ("q4", Encoding::Q4, MAX_BLOCK_VALUES),
    ("topk", Encoding::TopK, MAX_BLOCK_VALUES),
    ("q4-small-blocks", Encoding::Q4, 333),
    ("topk-small-blocks", Encoding::TopK, 333),
];

/// Where the values of a body stand: those of a model are the same, whoever wrote it; those of an update are rounded at
/// random.
fn values_of(name: &str, encoding: Encoding) -> &str {
    match (encoding, name) {
        (Encoding::F32, _) => "f32",
        (Encoding::Bf16, _) | (_, "bf16-delta") => "bf16",
        _ => name,
    }
}

fn golden_schema() -> Arc<Schema> {
    use Dtype::{F32, I64};
    schema(&[
        ("bias", F32, &[9]),
        ("conv.weight", F32, &[3, 343]), // a group of 1,024 and one of 5
        ("counts", I64, &[5]),
        ("empty.bias", F32, &[0]),
        ("empty.weight", F32, &[0, 3]),
        ("fc.weight", F32, &[1, 2, 5]),
        ("same.weight", F32, &[2, 2]), // nothing changes: a scale of 0
        ("scalar", F32, &[]),
        ("steps", I64, &[]),
        ("subnormal.weight", F32, &[3, 1]), // its scale is subnormal
        ("ä.large.weight", F32, &[1, 3]),   // its name has more bytes than letters
    ])
}

/// Numbers from -1 to 1 without order (xorshift), the same at every run.
fn noise(count: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

const SUBNORMAL: f32 = f32::from_bits(1);

fn base() -> Parameters {
    let mut fc = noise(10, 3);
    fc[4] = -0.0;
    let values = vec![
        Values::F32(vec![0.0, -0.0, 1.0, -1.0, SUBNORMAL, 3e38, 0.1, 1e-39, 65_504.0]),
        Values::F32(noise(1029, 1)),
        Values::I64(vec![0, 1, -1, i64::MAX, i64::MIN]),
        Values::F32(vec![]),
        Values::F32(vec![]),
        Values::F32(fc),
        Values::F32(vec![0.5, -0.0, 1e-40, -3e38]),
        Values::F32(vec![0.25]),
        Values::I64(vec![100]),
        Values::F32(vec![0.0, SUBNORMAL, -1e-39]),
        Values::F32(vec![3e38, -3e38, 1.0]),
    ];
    Parameters::new(golden_schema(), values)
}

fn update() -> Parameters {
    let base = base();
    let near = |index: usize, by: f32| match &base.values()[index] {
        Values::F32(v) => Values::F32(v.iter().zip(noise(v.len(), 7)).map(|(v, n)| v + by * n * n * n).collect()),
        Values::I64(_) => panic!("integers"),
    };
    let values = vec![
        Values::F32(vec![-0.0, 0.0, 1.01, 1.0, -SUBNORMAL, -3e38, 0.1, 2e-39, 1e-3]),
        near(1, 0.01),
        Values::I64(vec![-300, i64::MAX, i64::MIN, i64::MAX, i64::MIN]),
        Values::F32(vec![]),
        Values::F32(vec![]),
        near(5, 0.5),
        base.values()[6].clone(),
        Values::F32(vec![-0.0]),
        Values::I64(vec![101]),
        Values::F32(vec![1e-40, -SUBNORMAL, -0.0]),
        Values::F32(vec![2.9e38, -3.3e38, -1.0]),
    ];
    Parameters::new(golden_schema(), values)
}

fn written(encoding: Encoding, block_values: usize) -> Vec<u8> {
    let update = update();
    if matches!(encoding, Encoding::F32 | Encoding::Bf16) {
        return in_blocks_of(block_values, &update, encoding, None).unwrap(); // as a global model
    }
    let recipe = UpdateRecipe { encoding, topk_fraction: 0.05, seed: 11 };
    let base = Base { version: BASE_VERSION, parameters: &base() };
    if encoding == Encoding::Bf16Delta {
        return super::differences::delta_in_blocks_of(block_values, &update, base).unwrap(); // likewise
    }
    let feedback = Feedback::default();
    super::super::container::update_blocks_of(block_values, &update, base, recipe, &feedback).unwrap().0
}

fn read(body: &[u8]) -> Parameters {
    let base = base();
    let base = Base { version: BASE_VERSION, parameters: &base };
    decode_against(body, &golden_schema(), Some(base)).unwrap()
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(file)
}

fn file(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn values_in(name: &str) -> Parameters {
    safe::read(&file(&format!("{name}.safetensors")), &golden_schema()).unwrap()
}

/// Writes what is ours anew, if the environment says so.
fn renewed() {
    if std::env::var_os("UPDATE_GOLDEN").is_none() {
        return;
    }
    std::fs::write(path("base.safetensors"), safe::write(&base()).unwrap()).unwrap();
    for (name, encoding, block_values) in CASES {
        let body = written(encoding, block_values);
        let values = format!("{}.safetensors", values_of(name, encoding));
        std::fs::write(path(&values), safe::write(&read(&body)).unwrap()).unwrap();
        std::fs::write(path(&format!("{name}.params")), body).unwrap();
    }
}

#[test]
fn bodies_are_written_and_read_as_they_were_before() {
    renewed();
    assert_eq!(bits(&values_in("base")), bits(&base()));
    assert_eq!(bits(&values_in("f32")), bits(&update()));
    for (name, encoding, block_values) in CASES {
        let body = file(&format!("{name}.params"));
        assert!(written(encoding, block_values) == body, "{name}.params is no longer what is written");
        assert_eq!(bits(&read(&body)), bits(&values_in(values_of(name, encoding))), "{name}");
    }
}

#[test]
fn what_a_python_client_wrote_is_read_as_it_reads_it_itself() {
    for encoding in Encoding::ALL {
        let name = format!("python-{encoding}");
        let body = file(&format!("{name}.params"));
        assert_eq!(plan_of(&body).encoding(), Some(*encoding));
        assert_eq!(bits(&read(&body)), bits(&values_in(values_of(&name, *encoding))), "{name}");
    }
}
