//! What may happen to bytes on their way, and what a forger may do to them.

use arbitrary::Arbitrary;

/// One change. Places are taken modulo the length of what is changed.
#[derive(Debug, Clone, Arbitrary)]
pub enum Change {
    /// Flips bits of one byte.
    Flip { at: u16, bits: u8 },
    /// Takes bytes out.
    Cut { at: u16, len: u16 },
    /// Puts bytes in.
    Insert { at: u16, bytes: Vec<u8> },
    /// Writes another number over a little-endian one.
    Number { at: u16, value: u32 },
    /// Puts a copy of some bytes elsewhere.
    Copy { from: u16, len: u8, to: u16 },
}

impl Change {
    /// Carries it out.
    pub fn on(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        let place = |at: u16| usize::from(at) % (len + 1);
        match self {
            Self::Flip { at, bits } => {
                if let Some(byte) = bytes.get_mut(place(*at)) {
                    *byte ^= bits;
                }
            }
            Self::Cut { at, len: cut } => {
                let end = len.min(place(*at) + usize::from(*cut));
                bytes.drain(place(*at)..end);
            }
            Self::Insert { at, bytes: new } => {
                bytes.splice(place(*at)..place(*at), new.iter().copied());
            }
            Self::Number { at, value } => {
                let end = len.min(place(*at) + 4);
                bytes.splice(place(*at)..end, value.to_le_bytes());
            }
            Self::Copy { from, len: copied, to } => {
                let copy = bytes[place(*from)..len.min(place(*from) + usize::from(*copied))].to_vec();
                bytes.splice(place(*to)..place(*to), copy);
            }
        }
    }
}
