//! How much memory reading a body takes, whatever its bytes are: never more than `wire::limits` says.
//!
//! Measured is what Rust allocates, all of it at its highest; where a list grows, the old and the new one together. What zstd
//! allocates in C is measured beside it. One test for all, because the counter counts the whole process.

use app::api::Encoding;
use fedlearn::wire::*;
use peak_alloc::PeakAlloc;
use std::io::{self, Read};
use std::sync::Arc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

// The function that `src/wire/limits.rs` states.
/// For a head of so many bytes that lists so many tensors and needs so many blocks.
fn of_head(bytes: usize, tensors: usize, blocks: usize) -> usize {
    2 * bytes + 256 * tensors + 128 * blocks + (4 << 10)
}
/// For the values' whereabouts, and what the threads that read blocks keep; beside the values.
fn of_blocks(tensors: usize, blocks: usize, threads: usize) -> usize {
    128 * (tensors + blocks) + threads * (8 << 20)
}
/// For expanding a zstd body that becomes so many bytes, at most what the receiver allows.
fn of_expanding(bytes: usize) -> usize {
    3 * bytes + (256 << 10)
}

/// The most that a piece of work has allocated at a time, with so many threads that read blocks.
fn peak<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> (usize, R) {
    let measure = |pool: &rayon::ThreadPool| {
        pool.install(|| {
            MEMORY.reset_peak_usage();
            let before = MEMORY.current_usage();
            let result = work();
            (MEMORY.peak_usage() - before, result)
        })
    };
    // Scoped, so that the threads and what they hold are gone before the next work is measured.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_scoped(|thread| thread.run(), measure).expect("threads")
}

fn within(what: &str, (took, limit): (usize, usize)) {
    eprintln!("{what}: {took} bytes, at most {limit}");
    assert!(took <= limit, "{what}: {took} bytes, at most {limit} are stated");
}

/// Name, dtype, encoding, shape.
type Tensor = (String, u8, u8, Vec<u64>);

/// So many tensors of one kind, in the order of their names.
fn tensors(count: usize, encoding: u8, shape: &[u64]) -> Vec<Tensor> {
    (0..count).map(|i| (format!("{i:05x}"), u8::from(encoding == 2), encoding, shape.to_vec())).collect()
}

fn container(tensors: &[Tensor], block_values: u32, blocks: &[Vec<u8>]) -> Vec<u8> {
    let spec = |(name, dtype, _, shape): &Tensor| TensorSpec {
        name: name.clone(),
        dtype: if *dtype == 1 { Dtype::I64 } else { Dtype::F32 },
        shape: shape.clone(),
    };
    let schema = Schema::new(tensors.iter().map(spec).collect());
    let digest = schema.map_or([0; 32], |schema| *schema.digest());
    let rows = blocks.iter().map(|b| [(b.len() as u32).to_le_bytes(), crc32fast::hash(b).to_le_bytes()]);
    let rows: Vec<_> = rows.collect();
    let header = postcard::to_stdvec(&(digest, 0u8, Some(1u64), tensors, block_values, rows)).expect("a header");
    let mut body = b"\x89FLP\r\n\x1a\n\x01\0\0\0".to_vec();
    body.extend((header.len() as u32).to_le_bytes());
    body.extend(header);
    body.extend(crc32fast::hash(&body).to_le_bytes());
    body.extend(blocks.concat());
    body
}

fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

/// So many entries of F32 tensors of one value, or of none.
fn entries(count: usize, values: usize) -> String {
    let entry = |i| {
        let (shape, begin, end) = (if values == 1 { "" } else { "0" }, 4 * values * i, 4 * values * (i + 1));
        format!(r#""{i}":{{"dtype":"F32","shape":[{shape}],"data_offsets":[{begin},{end}]}}"#)
    };
    format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(","))
}

/// A plane that says it is a zstd frame.
fn zstd_plane(frame: &[u8]) -> Vec<u8> {
    [&[1][..], &(frame.len() as u32).to_le_bytes(), frame].concat()
}

/// A zstd frame of so many zeros, which does not say how many.
fn zeros(bytes: u64) -> Vec<u8> {
    zstd::stream::encode_all(io::repeat(0).take(bytes), 1).expect("zstd")
}

/// A zstd frame that says it becomes 4 GiB less a byte, and becomes 1 MiB.
fn boasting() -> Vec<u8> {
    let mut frame = zstd::bulk::compress(&vec![0; 1 << 20], 1).expect("zstd");
    let size = frame.windows(4).position(|bytes| bytes == (1u32 << 20).to_le_bytes()).expect("the size, in four bytes");
    frame[size..size + 4].fill(0xff);
    frame
}

/// Reads a head; if it is accepted there are so many tensors and blocks, else it is refused.
fn head(what: &str, format: BodyFormat, body: &[u8], listed: (usize, usize), accepted: bool) {
    let len = Plan::head_bytes(format, body).expect("a head").expect("all of it");
    let head = &body[..len];
    let (took, plan) = peak(1, || Plan::read(format, head));
    match plan {
        Ok(plan) => {
            assert_eq!((true, (plan.schema().tensors().len(), plan.block_count())), (accepted, listed), "{what}")
        }
        Err(error) => assert!(!accepted, "{what}: {error}"),
    }
    within(what, (took, of_head(len, listed.0, listed.1)));
}

fn heads_of_containers() {
    let rows = |blocks: usize| vec![Vec::new(); blocks];
    let read = |what, tensors: &[Tensor], block_values, blocks, accepted| {
        let body = container(tensors, block_values, &rows(blocks));
        head(what, BodyFormat::Container, &body, (tensors.len(), blocks.min(MAX_BLOCKS)), accepted);
    };
    read("one scalar", &tensors(1, 0, &[]), 1, 1, true);
    // A little more than a power of two: where lists that grow have just been doubled.
    for count in [1_000, 32_769, 65_536] {
        read("empty tensors", &tensors(count, 0, &[0]), 1, 0, true);
        read("tensors of eight dimensions", &tensors(count, 0, &[0, 1, 2, 3, 4, 5, 6, 7]), 1, 0, true);
        read("scalars in one block", &tensors(count, 0, &[]), 1 << 18, 1, true);
        read("scalars in blocks of their own", &tensors(count, 0, &[]), 1, count, true);
        read("pairs in blocks of three", &tensors(count, 0, &[2]), 3, (2 * count).div_ceil(3), true);
        read("one tensor in blocks of one", &tensors(1, 0, &[count as u64]), 1, count, true);
        read("tensors without names", &vec![(String::new(), 0, 0, vec![]); count], 1, 0, false);
    }
    let long: Vec<_> = (0..4_000).map(|i| (format!("{i:01000}"), 0, 0, vec![0])).collect();
    read("a header of 4 MiB of names", &long, 1, 0, true);
    read("a header of 4 MiB of rows", &tensors(1, 0, &[500_000]), 1, 500_000, false);
    read("65,536 tensors of 2^32 values", &tensors(65_536, 0, &[1 << 32]), 1 << 18, 0, false);
    // All that the limits allow, in 16,384 rows: 2^32 values.
    read("2^32 values", &tensors(1, 6, &[1 << 32]), 1 << 18, 1 << 14, true);
}

fn heads_of_safetensors() {
    const PLAIN: BodyFormat = BodyFormat::Safetensors { zstd: false };
    for count in [1, 1_000, 32_769, 60_000] {
        head("scalars", PLAIN, &safetensors(&entries(count, 1)), (count, count), true);
    }
    head("65,537 empty tensors", PLAIN, &safetensors(&entries(65_537, 0)), (65_537, 0), false);
    let two_million = (2 << 20) - 100;
    let of = |name: &str, shape: &str| {
        safetensors(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,0]}}}}"#))
    };
    head("a shape of two million", PLAIN, &of("w", &"0,".repeat(two_million)), (1, 0), false);
    head("a name of two million", PLAIN, &of(&"\\n".repeat(two_million), "0"), (1, 0), false);
    let metadata = |text: &str| safetensors(&format!(r#"{{"__metadata__":{{"a":{text}}}}}"#));
    head("metadata of 4 MiB", PLAIN, &metadata(&format!("\"{}\"", "\\n".repeat(two_million))), (0, 0), true);
    head("metadata two million deep", PLAIN, &metadata(&"[".repeat(two_million)), (0, 0), false);
    let huge = r#"{"w":{"dtype":"F32","shape":[4294967296],"data_offsets":[0,17179869184]}}"#;
    head("2^32 values that are not there", PLAIN, &safetensors(huge), (1, 1 << 14), true);
}

/// Three and a half blocks' worth of floats in two matrices, the same of integers, and a vector.
fn model(values: u64, filled: f32) -> Parameters {
    let spec = |name: &str, dtype, shape: &[u64]| TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() };
    let specs = vec![
        spec("a", Dtype::F32, &[2, values]),
        spec("b", Dtype::F32, &[values, 1]),
        spec("n", Dtype::I64, &[3 * values]),
        spec("v", Dtype::F32, &[values]),
    ];
    let schema = Arc::new(Schema::new(specs).expect("a schema"));
    let of = |spec: &TensorSpec| {
        let len = spec.values().unwrap_or(0) as i64;
        match spec.dtype {
            Dtype::F32 => Values::F32((0..len).map(|i| filled * (i * 7919 % 1001 - 500) as f32).collect()),
            Dtype::I64 => Values::I64((0..len).map(|i| i.wrapping_mul(0x1e37_79b9_7f4a_7c15)).collect()),
        }
    };
    let values = schema.tensors().iter().map(of).collect();
    Parameters::new(schema, values)
}

fn honest_bodies() {
    for values in [1, 1_000, 300_000] {
        let (base, sent) = (model(values, 0.1), model(values, 0.11));
        let base = Base { version: 1, parameters: &base };
        let schema = sent.schema();
        let bytes = max_body_bytes(schema) as usize - MAX_HEADER_BYTES;
        for encoding in Encoding::ALL {
            let recipe = UpdateRecipe { encoding: *encoding, topk_fraction: 0.3, seed: 0 };
            let (body, _) = encode_update(&sent, base, recipe, &Feedback::default()).expect("an update");
            let blocks = Plan::of(BodyFormat::Container, &body).expect("a body").block_count();
            for threads in [1, 2, 4] {
                let (took, read) = peak(threads, || decode_against(&body, schema, Some(base)));
                assert!(read.is_ok(), "{encoding}");
                let limit = bytes + of_head(body.len().min(1000), 4, blocks) + of_blocks(4, blocks, threads);
                within(&format!("{} bytes as {encoding} with {threads} threads", bytes), (took, limit));
            }
        }
        let file = safe::write(&sent).expect("a file");
        let (took, read) = peak(1, || safe::read(&file, schema));
        assert!(read.is_ok());
        within("safetensors", (took, bytes + of_head(1000, 4, 32) + of_blocks(4, 32, 1)));
        let small = safe::compress(&file).expect("zstd");
        let (took, read) = peak(1, || BodyFormat::Safetensors { zstd: true }.read(&small, schema));
        assert!(read.is_ok());
        within("zstd", (took, bytes + of_expanding(file.len()) + of_head(1000, 4, 32) + of_blocks(4, 32, 1)));
    }
}

/// Where tensors and blocks are many and values few, and where a thread's lists grow as often as they can.
fn awkward_bodies() {
    let many = container(&tensors(65_536, 0, &[]), 1, &vec![vec![0; 4]; 65_536]);
    let (took, read) = peak(2, || decode_any(&many, 65_536));
    assert_eq!(read.map(|read| read.schema().values()), Ok(65_536));
    let values = 4 * 65_536;
    within("65,536 scalars", (took, values + of_head(1 << 20, 65_536, 65_536) + of_blocks(65_536, 65_536, 2)));

    let full = MAX_BLOCK_VALUES;
    let of = |name: &str, code, dtype, len: usize| (name.to_owned(), dtype, code, vec![len as u64]);
    let listed = [of("f", 1, 0, 2 * full - 1), of("n", 2, 1, 2 * full - 1), of("t", 6, 0, 2 * full - 1)];
    let plane = |len: usize| [&[0][..], &(len as u32).to_le_bytes(), &vec![0; len]].concat();
    // Each value of `topk` is an entry: no gaps.
    let entries = |len: usize| [vec![0; 4], [(len as u32).to_le_bytes(); 2].concat(), plane(len), plane(len)].concat();
    let blocks = [full, full - 1].map(|len| [[plane(len), plane(len)].concat(), plane(8 * len), entries(len)]);
    let [[f0, n0, t0], [f1, n1, t1]] = blocks;
    let body = container(&listed, full as u32, &[f0, f1, n0, n1, t0, t1]);
    let plan = Plan::of(BodyFormat::Container, &body).expect("a body");
    let zeros = |len| Values::F32(vec![0.0; len]);
    let values = vec![zeros(2 * full - 1), Values::I64(vec![0; 2 * full - 1]), zeros(2 * full - 1)];
    let base = Parameters::new(Arc::clone(plan.schema()), values);
    let base = Some(Base { version: 1, parameters: &base });
    let backwards =
        || (0..6).rev().all(|block| plan.read_blocks(&body[..], base, block..block + 1, vec![Nowhere]).is_ok());
    let (took, read) = peak(1, backwards);
    assert!(read);
    within("six full blocks by one thread, the smaller ones first", (took, of_blocks(3, 6, 1)));
}

struct Nowhere;

impl Sink for Nowhere {
    fn floats(&mut self, _: usize, _: usize, _: &[f32]) {}
    fn integers(&mut self, _: usize, _: usize, _: &[i64]) {}
}

fn bombs() {
    // A plane that says it has 4 GiB, one that has 64 MiB and does not say so, one whose 4 GiB are not there.
    let mut cut = zstd_plane(&[]);
    cut[1..5].fill(0xff);
    for plane in [zstd_plane(&boasting()), zstd_plane(&zeros(64 << 20)), cut] {
        let block = [&plane[..], &zstd_plane(&zeros(2))].concat();
        let body = container(&tensors(1, 1, &[2]), 2, &[block]);
        let (took, read) = peak(1, || decode_any(&body, 100));
        assert!(read.is_err());
        // Two bytes are wanted, so not even a thread's buffers grow.
        within("a plane that becomes too much", (took, 8 + of_head(100, 1, 1) + of_blocks(1, 1, 0)));
    }
    // Sixteen thousand full blocks that are empty in `topk`: 2^32 values in 0.5 MB.
    let empty = [&[0; 12][..], &[0; 10]].concat();
    let body = container(&tensors(1, 6, &[1 << 32]), 1 << 18, &vec![empty; 1 << 14]);
    let (took, read) = peak(1, || decode_any(&body, 1 << 31));
    assert_eq!(read, Err(DecodeError::TooManyValues { values: 1 << 32, limit: 1 << 31 }));
    within("2^32 values in 0.5 MB, of which half are allowed", (took, of_head(131_200, 1, 1 << 14)));
    let other = model(10, 0.1);
    let (took, read) = peak(1, || decode(&body, other.schema()));
    assert!(matches!(read, Err(DecodeError::UnknownTensor(_) | DecodeError::MissingTensor(_))), "{read:?}");
    within("2^32 values in 0.5 MB, for a model of 70", (took, of_head(131_200, 1, 1 << 14)));

    // Around a whole body: 4 GiB that are only said, and 64 MiB that are there.
    let most = 1 << 20;
    for (bomb, kept) in [(boasting(), 0), (zeros(64 << 20), most)] {
        let (took, read) = peak(1, || safe::decompress(&bomb, most));
        assert_eq!(read, Err(DecodeError::Expands { limit: most as u64 }));
        within("a zstd body that becomes too much", (took, of_expanding(kept)));
    }
}

/// What zstd holds for a stream of the largest window, and for a frame that is expanded in one go.
fn what_zstd_holds() {
    use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};
    let mut stream = DCtx::create();
    stream.set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG)).expect("zstd");
    // A frame without content size, with a window of 2^23, and a raw block of one byte.
    let window = (MAX_ZSTD_WINDOW_LOG as u8 - 10) << 3;
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, window, 9, 0, 0, 7];
    let mut out = [0; 8];
    let (mut from, mut to) = (InBuffer::around(&frame), OutBuffer::around(&mut out[..]));
    stream.decompress_stream(&mut to, &mut from).expect("zstd");
    assert_eq!((to.as_slice(), stream.sizeof() > 8 << 20), (&[7][..], true));
    within("zstd's memory for a stream", (stream.sizeof(), (8 << 20) + (512 << 10)));
    let mut whole = DCtx::create();
    whole.decompress(&mut out[..], &frame).expect("zstd");
    within("zstd's memory for a plane", (whole.sizeof(), 256 << 10));
}

#[test]
fn reading_takes_no_more_memory_than_stated() {
    heads_of_containers();
    heads_of_safetensors();
    honest_bodies();
    awkward_bodies();
    bombs();
    what_zstd_holds();
}
