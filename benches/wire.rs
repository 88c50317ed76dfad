//! How fast bodies are written and read, on one core and on two: bytes are those of the values as f32.
//!
//! `cargo bench -p fedlearn-bench --no-default-features`. The values are normal with the deviations of a ResNet-18's layers, 11.2
//! million of them; an update moves each by about a hundredth of its deviation. Beside them, measured in the same run: copying
//! the values, and zstd on the bytes of the planes.
#![allow(missing_docs)] // divan's macros

use app::api::Encoding;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use fedlearn::wire::{
    self, Base, BodyFormat, ChangeSink, Dtype, Feedback, Parameters, Plan, Schema, TensorSpec, UpdateRecipe, Values,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use std::sync::{Arc, LazyLock};

fn main() {
    divan::main();
}

/// Shapes of weights, and how often each occurs.
const LAYERS: [(&[u64], usize); 5] = [
    (&[64, 64, 3, 3], 4),
    (&[128, 128, 3, 3], 4),
    (&[256, 256, 3, 3], 4),
    (&[512, 512, 3, 3], 3),
    (&[512, 256, 3, 3], 1),
];

fn model(change: f32, of: Option<&Parameters>) -> Parameters {
    let mut random = ChaCha8Rng::seed_from_u64(change.to_bits().into());
    let shapes = LAYERS.iter().flat_map(|(shape, times)| std::iter::repeat_n(shape, *times)).enumerate();
    let specs = shapes.map(|(i, s)| TensorSpec { name: format!("{i:02}"), dtype: Dtype::F32, shape: s.to_vec() });
    let schema = Arc::new(Schema::new(specs.collect()).expect("a schema"));
    let tensor = |(i, spec): (usize, &TensorSpec)| {
        let deviation = (2.0 / spec.shape[1..].iter().product::<u64>() as f32).sqrt() * change;
        let normal = Normal::new(0f32, deviation).expect("a deviation");
        let start = of.map(|of| &of.values()[i]);
        let values = (0..spec.values().unwrap_or(0) as usize).map(|at| match start {
            Some(Values::F32(start)) => start[at] + normal.sample(&mut random),
            _ => normal.sample(&mut random),
        });
        Values::F32(values.collect())
    };
    let values = schema.tensors().iter().enumerate().map(tensor).collect();
    Parameters::new(schema, values)
}

static BASE: LazyLock<Parameters> = LazyLock::new(|| model(1.0, None));
static UPDATE: LazyLock<Parameters> = LazyLock::new(|| model(0.01, Some(&BASE)));

const VERSION: u64 = 1;

fn bytes() -> BytesCount {
    BytesCount::new(4 * BASE.schema().values())
}

fn base() -> Base<'static> {
    Base { version: VERSION, parameters: &BASE }
}

fn body(encoding: Encoding) -> Vec<u8> {
    let recipe = UpdateRecipe { encoding, topk_fraction: 0.01, seed: 0 };
    wire::encode_update(&UPDATE, base(), recipe, &Feedback::default()).expect("an update").0
}

fn cores(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

#[divan::bench(sample_count = 20)]
fn copy(bencher: Bencher) {
    let from = vec![1f32; BASE.schema().values() as usize];
    let mut to = vec![0f32; from.len()];
    bencher.counter(bytes()).bench_local(|| black_box(&mut to).copy_from_slice(black_box(&from)));
}

/// The high bytes of bf16: what zstd has to do, whatever is around it.
fn high_plane() -> Vec<u8> {
    let floats = UPDATE.values().iter().flat_map(|v| if let Values::F32(v) = v { v.as_slice() } else { &[] });
    floats.map(|value| (value.to_bits() >> 23) as u8).collect()
}

#[divan::bench(sample_count = 10)]
fn zstd_compresses_one_plane(bencher: Bencher) {
    let plane = high_plane();
    bencher.counter(bytes()).bench_local(|| {
        for block in plane.chunks(wire::MAX_BLOCK_VALUES) {
            black_box(zstd::bulk::compress(block, wire::ZSTD_LEVEL).expect("zstd"));
        }
    });
}

#[divan::bench(sample_count = 10)]
fn zstd_expands_one_plane(bencher: Bencher) {
    let plane = high_plane();
    let blocks = plane.chunks(wire::MAX_BLOCK_VALUES).map(|b| zstd::bulk::compress(b, wire::ZSTD_LEVEL).expect("zstd"));
    let blocks: Vec<_> = blocks.collect();
    bencher.counter(bytes()).bench_local(|| {
        for block in &blocks {
            black_box(zstd::bulk::decompress(block, wire::MAX_BLOCK_VALUES).expect("zstd"));
        }
    });
}

#[divan::bench(args = Encoding::ALL, consts = [1, 2], sample_count = 10)]
fn encode<const CORES: usize>(bencher: Bencher, encoding: &Encoding) {
    black_box(&*UPDATE);
    let cores = cores(CORES);
    bencher.counter(bytes()).bench_local(|| cores.install(|| black_box(body(*encoding))));
}

/// Decodes, checks that all is finite, subtracts the base, scales and adds to a sum.
#[divan::bench(args = Encoding::ALL, consts = [1, 2], sample_count = 10)]
fn decode_and_fold<const CORES: usize>(bencher: Bencher, encoding: &Encoding) {
    let body = body(*encoding);
    let plan = Plan::of(BodyFormat::Container, &body).expect("a body");
    let mut sums: Vec<_> =
        BASE.schema().tensors().iter().map(|t| vec![0f64; t.values().unwrap_or(0) as usize]).collect();
    let cores = cores(CORES);
    bencher.counter(bytes()).bench_local(|| {
        let sinks = plan.cut(sums.iter_mut().map(Vec::as_mut_slice)).into_iter().map(Fold).collect();
        let read = || plan.read_changes(&body[..], base(), 0..plan.block_count(), sinks);
        cores.install(read).expect("a sound body");
    });
}

struct Fold<'a>(Vec<&'a mut [f64]>);

impl ChangeSink for Fold<'_> {
    fn floats(&mut self, piece: usize, at: usize, changes: &[f64]) {
        let sums = &mut self.0[piece][at..at + changes.len()];
        sums.iter_mut().zip(changes).for_each(|(sum, change)| *sum += 3.0 * change);
    }

    fn integers(&mut self, _: usize, _: usize, _: &[i128]) {}
}
