//! Formats that people send by mistake, known by their first bytes.

use super::error::DecodeError;

/// First a byte that is no text, last what transfers in text mode would change: the idea of PNG's signature.
pub(super) const SIGNATURE: [u8; 8] = *b"\x89FLP\r\n\x1a\n";

/// First bytes, what begins so, and what to do about it.
const KNOWN: [(&[u8], &str); 6] = [
    (
        b"PK\x03\x04",
        "a zip file, such as a PyTorch .pt or .pth file or a numpy .npz; convert a state_dict with \
      safetensors.torch.save_file(torch.load('model.pt', weights_only=True), 'model.safetensors')",
    ),
    (
        b"\x80",
        "a Python pickle, such as an old PyTorch .pt file; convert a state_dict with \
      safetensors.torch.save_file(torch.load('model.pt', weights_only=True), 'model.safetensors')",
    ),
    (b"\x28\xb5\x2f\xfd", "zstd; send safetensors that are compressed so with Content-Encoding: zstd"),
    (b"\x1f\x8b", "gzip; send it uncompressed, or safetensors with zstd and Content-Encoding: zstd"),
    (b"\x89HDF", "HDF5, such as a Keras .h5 file; send its weights as safetensors"),
    (&SIGNATURE, "application/vnd.fedlearn.params; send it with that Content-Type"),
];

/// What a body that is not of the expected format looks like.
pub(super) fn recognise(expected: &'static str, first: &[u8]) -> Option<DecodeError> {
    let (_, found) = KNOWN.into_iter().find(|(magic, _)| first.starts_with(magic))?;
    Some(DecodeError::Foreign { expected, found })
}
