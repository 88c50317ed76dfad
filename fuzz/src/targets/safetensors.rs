//! Safetensors: of any bytes, and of headers that are right but for some things; plain and in zstd.

use super::changes::Change;
use super::model::{Dimension, Name, bits};
use super::{MOST_VALUES, check};
use arbitrary::{Arbitrary, Unstructured};
use fedlearn::wire::{BodyFormat, DecodeError, Parameters, Plan, Values, safe};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

/// Input of the target.
#[derive(Debug, Arbitrary)]
enum Input<'a> {
    /// As a file.
    Raw(&'a [u8]),
    /// As a zstd body.
    Zstd(&'a [u8]),
    /// As a header, with its length before it and data after it.
    Header(&'a str, u8),
    /// Entries.
    Entries(Entries, &'a [u8]),
}

#[derive(Debug, Arbitrary)]
struct Entries {
    entries: Vec<Entry>,
    metadata: Option<String>,
    spaces: u8,
    length_more: i8,
    data_more: i8,
    changes: Vec<Change>,
    zstd: Option<Zstd>,
}

#[derive(Debug, Arbitrary)]
struct Entry {
    name: Name,
    dtype: u8,
    shape: Vec<Dimension>,
    offsets: Offsets,
}

#[derive(Debug, Arbitrary)]
enum Offsets {
    Right,
    Beside(i8, i8),
    Any(u64, u64),
}

#[derive(Debug, Arbitrary)]
struct Zstd {
    /// With its size in the frame.
    declared: bool,
    changes: Vec<Change>,
}

/// The most bytes that a zstd body may become.
const MOST_BYTES: usize = 1 << 16;

/// Reads safetensors. Returns whether they were accepted.
pub fn safetensors(data: &[u8]) -> bool {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return false };
    match input {
        Input::Raw(file) => read(file).is_ok(),
        Input::Zstd(body) => expand(body).and_then(|file| read(&file)).is_ok(),
        Input::Header(header, data) => {
            let data = vec![0; data.into()];
            read(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()).is_ok()
        }
        Input::Entries(entries, data) => {
            let mut file = entries.file(data);
            entries.changes.iter().for_each(|change| change.on(&mut file));
            match &entries.zstd {
                None => read(&file).is_ok(),
                Some(zstd) => zstd.send(&file).and_then(|file| read(&file)).is_ok(),
            }
        }
    }
}

impl Entries {
    fn file(&self, data: &[u8]) -> Vec<u8> {
        let (mut end, mut entries) = (0u64, Vec::new());
        for entry in &self.entries {
            let shape: Vec<_> = entry.shape.iter().map(Dimension::size).collect();
            const DTYPES: [(&str, u64); 6] = [("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("F64", 8), ("x", 1)];
            let (dtype, bytes) = DTYPES[usize::from(entry.dtype) % DTYPES.len()];
            let size = shape.iter().fold(bytes, |size, dimension| size.wrapping_mul(*dimension));
            let right = (end, end.wrapping_add(size));
            let offsets = match entry.offsets {
                Offsets::Right => right,
                Offsets::Beside(begin, stop) => {
                    (right.0.wrapping_add_signed(begin.into()), right.1.wrapping_add_signed(stop.into()))
                }
                Offsets::Any(begin, stop) => (begin, stop),
            };
            end = offsets.1;
            let name = json(&entry.name.text());
            let (begin, stop) = offsets;
            entries.push(format!(r#"{name}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{stop}]}}"#));
        }
        if let Some(metadata) = &self.metadata {
            entries.push(format!(r#""__metadata__":{{"format":{}}}"#, json(metadata)));
        }
        let header = format!("{{{}}}{}", entries.join(","), " ".repeat(usize::from(self.spaces % 16)));
        let length = (header.len() as u64).wrapping_add_signed(self.length_more.into());
        let wanted = usize::try_from(end).unwrap_or(usize::MAX).min(MOST_BYTES);
        let data =
            data.iter().copied().chain(std::iter::repeat(0)).take(wanted.saturating_add_signed(self.data_more.into()));
        length.to_le_bytes().into_iter().chain(header.into_bytes()).chain(data).collect()
    }
}

/// A string of JSON.
fn json(text: &str) -> String {
    let escaped = text.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        '\0'..='\u{1f}' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

impl Zstd {
    /// What a receiver makes of a file.
    fn send(&self, file: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut body = if self.declared {
            safe::compress(file).expect("enough memory")
        } else {
            zstd::stream::encode_all(file, 1).expect("enough memory")
        };
        let sent = body.clone();
        self.changes.iter().for_each(|change| change.on(&mut body));
        let expanded = expand(&body);
        if body == sent {
            let limit = MOST_BYTES as u64;
            let want = if file.len() > MOST_BYTES { Err(DecodeError::Expands { limit }) } else { Ok(file.to_vec()) };
            assert_eq!(expanded, want);
        }
        expanded
    }
}

fn expand(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let expanded = safe::decompress(body, MOST_BYTES)?;
    assert!(expanded.len() <= MOST_BYTES, "never more than was asked for");
    Ok(expanded)
}

fn read(file: &[u8]) -> Result<(), DecodeError> {
    const PLAIN: BodyFormat = BodyFormat::Safetensors { zstd: false };
    let plan = Plan::of(PLAIN, file)?;
    let head = Plan::head_bytes(PLAIN, file).expect("it was read").expect("all of it");
    check::tiles(&plan, head as u64);

    let read = safe::read_any(file, MOST_VALUES)?;
    check::can_be_sent_on(&read);
    check::blocks_stand_for_themselves(PLAIN, file, None, &read);
    assert_eq!(safe::read(file, read.schema()).as_ref().map(bits), Ok(bits(&read)));
    let written = safe::write(&read).expect("finite values can be sent");
    assert_eq!(safe::read(&written, read.schema()).as_ref().map(bits), Ok(bits(&read)));
    as_the_reference_implementation(file, &read);
    Ok(())
}

/// What we accept, the `safetensors` crate accepts, with the same values. It is asked only then: its sums of offsets may
/// overflow in what we refuse.
fn as_the_reference_implementation(file: &[u8], read: &Parameters) {
    let theirs = match SafeTensors::deserialize(file) {
        Ok(theirs) => theirs,
        // It wants `__metadata__` to be an object of strings; to us it is nothing.
        Err(refusal) => {
            let metadata = b"__metadata__";
            let escaped = file.contains(&b'\\');
            assert!(escaped || file.windows(metadata.len()).any(|w| w == metadata), "the crate refuses it: {refusal}");
            return;
        }
    };
    assert_eq!(theirs.len(), read.schema().tensors().len());
    for (spec, values) in read.iter() {
        let tensor = theirs.tensor(&spec.name).expect("the same names");
        let shape: Vec<_> = tensor.shape().iter().map(|size| *size as u64).collect();
        assert_eq!(shape, spec.shape);
        let data = tensor.data();
        let same = match (tensor.dtype(), values) {
            (Dtype::F32, Values::F32(ours)) => {
                data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).to_bits()).eq(ours.iter().map(|v| v.to_bits()))
            }
            (Dtype::F16, Values::F32(ours)) => {
                data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).eq(ours.iter().copied())
            }
            (Dtype::BF16, Values::F32(ours)) => {
                data.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).eq(ours.iter().copied())
            }
            (Dtype::I64, Values::I64(ours)) => {
                data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).eq(ours.iter().copied())
            }
            (dtype, _) => panic!("'{}' is {dtype:?} to the crate", spec.name),
        };
        assert!(same, "'{}' has other values in the crate", spec.name);
    }
}
