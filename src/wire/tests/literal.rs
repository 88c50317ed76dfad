//! Containers put together by hand.

use super::*;

/// A body of these header fields and blocks, with right checksums.
pub struct Body<'a> {
    pub digest: [u8; 32],
    pub encoding: u8,
    pub base_version: Option<u64>,
    /// Name, dtype, encoding, shape.
    pub tensors: Vec<(&'a str, u8, u8, Vec<u64>)>,
    pub block_values: u32,
    pub blocks: Vec<Vec<u8>>,
}

impl Body<'_> {
    /// One F32 tensor `w` of two values in one block.
    pub fn sound() -> Self {
        Self {
            digest: *schema(&[("w", Dtype::F32, &[2])]).digest(),
            encoding: 0,
            base_version: None,
            tensors: vec![("w", 0, 0, vec![2])],
            block_values: 2,
            blocks: vec![floats(&[1.0, 2.0])],
        }
    }

    /// The same values as bf16.
    pub fn bf16(high: Vec<u8>, low: Vec<u8>) -> Self {
        Self { tensors: vec![("w", 0, 1, vec![2])], blocks: vec![[high, low].concat()], ..Self::sound() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let rows = self.blocks.iter().map(|b| [(b.len() as u32).to_le_bytes(), crc32fast::hash(b).to_le_bytes()]);
        let rows: Vec<_> = rows.collect();
        let fields = (self.digest, self.encoding, self.base_version, &self.tensors, self.block_values, rows);
        framed(&postcard::to_stdvec(&fields).unwrap(), &self.blocks.concat())
    }

    pub fn refusal(&self) -> DecodeError {
        decode(&self.bytes(), &schema(&[("w", Dtype::F32, &[2])])).unwrap_err()
    }
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn plane(method: u8, bytes: &[u8]) -> Vec<u8> {
    [&[method][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

pub fn framed(header: &[u8], blocks: &[u8]) -> Vec<u8> {
    let mut body = b"\x89FLP\r\n\x1a\n\x01\0\0\0".to_vec();
    body.extend((header.len() as u32).to_le_bytes());
    body.extend(header);
    body.extend(crc32fast::hash(&body).to_le_bytes());
    body.extend(blocks);
    body
}

/// Makes the header's length and checksum right, as far as there is room for them.
pub fn mend(body: &mut [u8]) {
    let Some(length) = body.get(12..16).map(|b| u32::from_le_bytes(b.try_into().unwrap()) as usize) else { return };
    let end = 16usize.saturating_add(length);
    if let Some(checksum) = body.get(..end).map(crc32fast::hash)
        && let Some(place) = body.get_mut(end..end + 4)
    {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
}
