//! The container around header and blocks: lengths and checksums, so that what is within them can be changed and they still fit.

/// A container in its parts.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The header without the rows of its block table, which ends it.
    pub header: Vec<u8>,
    /// The blocks.
    pub blocks: Vec<Vec<u8>>,
}

/// Bytes before the header.
const PRELUDE: usize = 16;
/// Bytes of a row of the block table: length and checksum.
const ROW: usize = 8;

impl Frame {
    /// Takes a sound body of so many blocks apart.
    pub fn of(body: &[u8], blocks: usize) -> Self {
        let number = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes")) as usize;
        let end = PRELUDE + number(12);
        let table = end - ROW * blocks;
        let mut rest = &body[end + 4..];
        let block = |row: usize| {
            let (block, tail) = rest.split_at(number(table + ROW * row));
            rest = tail;
            block.to_vec()
        };
        Self { header: body[PRELUDE..table].to_vec(), blocks: (0..blocks).map(block).collect() }
    }

    /// Puts it together.
    pub fn body(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        for block in &self.blocks {
            header.extend((block.len() as u32).to_le_bytes());
            header.extend(crc32fast::hash(block).to_le_bytes());
        }
        let mut body = head(&header);
        body.extend(self.blocks.concat());
        body
    }
}

/// What comes before the blocks, with these bytes as the header.
pub fn head(header: &[u8]) -> Vec<u8> {
    let mut head = b"\x89FLP\r\n\x1a\n\x01\0\0\0".to_vec();
    head.extend((header.len() as u32).to_le_bytes());
    head.extend(header);
    head.extend(crc32fast::hash(&head).to_le_bytes());
    head
}
