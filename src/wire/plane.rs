//! Planes: the bytes of a block, each kind by itself, compressed where that helps.
//!
//! A plane is a method (0 raw, 1 zstd), a length (u32), and so many bytes.

use super::error::{DecodeError, EncodeError};
use super::limits::ZSTD_LEVEL;
use std::io;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, Strategy, find_frame_compressed_size};

const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// RFC 8878, 3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Writes planes. Its memory serves one after the other.
pub(super) struct PlaneWriter {
    single: Compressor<'static>,
    repeats: Compressor<'static>,
    compressed: [Vec<u8>; 2],
}

impl PlaneWriter {
    pub fn new() -> Result<Self, EncodeError> {
        // What can be gained on parameters lies in how often each byte occurs. Matches of a few bytes are accidents
        // that cost more than they save, and time to find: so next to none are looked for.
        let single = compressor(&[CParameter::WindowLog(17), CParameter::HashLog(6), CParameter::MinMatch(7)])?;
        // Nor here, but for runs, of the weights that no training moves: two tables find these better than one.
        let repeats = compressor(&[
            CParameter::Strategy(Strategy::ZSTD_dfast),
            CParameter::WindowLog(18),
            CParameter::HashLog(6),
            CParameter::ChainLog(10),
            CParameter::MinMatch(7),
        ])?;
        Ok(Self { single, repeats, compressed: Default::default() })
    }

    /// Appends a plane to `body`. `repeats`: there may be long runs in it, so that looking for them too is worth the time.
    pub fn write(&mut self, raw: &[u8], repeats: bool, body: &mut Vec<u8>) -> Result<(), EncodeError> {
        let [first, second] = &mut self.compressed;
        compress(&mut self.single, raw, first)?;
        let (mut method, mut bytes) = (ZSTD, &*first);
        if repeats {
            compress(&mut self.repeats, raw, second)?;
            if second.len() < bytes.len() {
                bytes = second;
            }
        }
        let bytes = if bytes.len() < raw.len() {
            bytes.as_slice()
        } else {
            method = RAW;
            raw
        };
        body.push(method);
        body.extend((bytes.len() as u32).to_le_bytes()); // at most 8 bytes a value of a block
        body.extend_from_slice(bytes);
        Ok(())
    }
}

fn compressor(parameters: &[CParameter]) -> Result<Compressor<'static>, EncodeError> {
    let mut zstd = Compressor::new(ZSTD_LEVEL).map_err(failed)?;
    for parameter in parameters {
        zstd.set_parameter(*parameter).map_err(failed)?;
    }
    Ok(zstd)
}

fn compress(zstd: &mut Compressor<'static>, raw: &[u8], compressed: &mut Vec<u8>) -> Result<(), EncodeError> {
    compressed.clear();
    compressed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    zstd.compress_to_buffer(raw, compressed).map(|_| ()).map_err(failed)
}

fn failed(error: io::Error) -> EncodeError {
    EncodeError::Library { library: "zstd", reason: error.to_string() }
}

/// What is still to be read of a block.
pub(super) struct BlockBytes<'a> {
    /// The block's number, for errors.
    block: usize,
    /// Bytes of the whole block.
    total: usize,
    rest: &'a [u8],
}

impl<'a> BlockBytes<'a> {
    pub fn new(block: usize, bytes: &'a [u8]) -> Self {
        Self { block, total: bytes.len(), rest: bytes }
    }

    /// The next `len` bytes as they are.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.length(len))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next 4 bytes as a number.
    pub fn take_u32(&mut self) -> Result<u32, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.length(4))?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    /// Fills `plane` with the `size` bytes of the next plane; never with more.
    pub fn plane(
        &mut self,
        size: usize,
        plane: &mut Vec<u8>,
        zstd: &mut Decompressor<'static>,
    ) -> Result<(), DecodeError> {
        let method = self.take(1)?.first().copied().unwrap_or_default();
        let length = self.take_u32()? as usize;
        let bytes = self.take(length)?;
        plane.resize(size, 0);
        let found = match method {
            RAW => {
                if length == size {
                    plane.copy_from_slice(bytes);
                }
                length as u64
            }
            ZSTD => self.expand(bytes, plane, zstd)?,
            method => return Err(DecodeError::PlaneMethod { block: self.block, method }),
        };
        if found == size as u64 {
            Ok(())
        } else {
            Err(DecodeError::PlaneSize { block: self.block, expected: size as u64, found })
        }
    }

    /// Returns how many bytes there are; where the frame declares another number than `plane` has, nothing is expanded.
    fn expand(&self, bytes: &[u8], plane: &mut [u8], zstd: &mut Decompressor<'static>) -> Result<u64, DecodeError> {
        let no_frame = |reason: String| DecodeError::PlaneZstd { block: self.block, reason };
        // The library takes a skippable frame for one of no bytes.
        if !bytes.starts_with(&ZSTD_MAGIC) {
            return Err(no_frame("it does not begin like a zstd frame".to_owned()));
        }
        let frame = find_frame_compressed_size(bytes)
            .map_err(|code| no_frame(zstd::zstd_safe::get_error_name(code).to_owned()))?;
        if frame != bytes.len() {
            return Err(no_frame(format!("the frame ends after {frame} of {} bytes", bytes.len())));
        }
        if let Ok(Some(declared)) = zstd::zstd_safe::get_frame_content_size(bytes)
            && declared != plane.len() as u64
        {
            return Ok(declared);
        }
        let expanded = zstd.decompress_to_buffer(bytes, plane).map_err(|e| no_frame(e.to_string()))?;
        Ok(expanded as u64)
    }

    /// Checks that all of the block was read.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.expected(self.total - self.rest.len())) }
    }

    /// The refusal of a block in which `len` more bytes were wanted than there are.
    fn length(&self, len: usize) -> DecodeError {
        self.expected((self.total - self.rest.len()).saturating_add(len))
    }

    fn expected(&self, expected: usize) -> DecodeError {
        DecodeError::BlockLength { block: self.block, expected: expected as u64, found: self.total as u64 }
    }
}
