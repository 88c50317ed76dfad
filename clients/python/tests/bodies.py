"""Bodies made by hand, for what no encoder would write. Right but for what a test changes."""

import hashlib
import struct
import zlib

SIGNATURE = b"\x89FLP\r\n\x1a\n"
W2 = [(b"w", 0, 0, [2])]  # one tensor `w`, F32 as f32, of 2 values


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def framed(header, blocks=b""):
    start = SIGNATURE + struct.pack("<II", 1, len(header)) + header
    return start + struct.pack("<I", zlib.crc32(start)) + blocks


def digest(tensors):
    sha = hashlib.sha256()
    for name, dtype, _, shape in tensors:
        sha.update(struct.pack("<I", len(name)) + name + bytes([dtype]) + struct.pack("<I", len(shape)))
        sha.update(b"".join(struct.pack("<Q", dimension) for dimension in shape))
    return sha.digest()


def start(tensors=W2, encoding=0, base=b"\0", sha=None):
    """The header up to the tensors' number, for headers that end badly."""
    return (digest(tensors) if sha is None else sha) + bytes([encoding]) + base


def body(tensors=W2, blocks=None, encoding=0, base=b"\0", sha=None, block_values=2, table=None):
    """`tensors`: (name, dtype, code, shape). `base`: an option of a varint. `table`: blocks that the header tells."""
    blocks = [struct.pack("<ff", 1, 2)] if blocks is None else blocks
    header = start(tensors, encoding, base, sha) + varint(len(tensors))
    for name, dtype, code, shape in tensors:
        header += varint(len(name)) + name + bytes([dtype, code]) + varint(len(shape)) + b"".join(map(varint, shape))
    table = blocks if table is None else table
    header += varint(block_values) + varint(len(table))
    header += b"".join(struct.pack("<II", len(block), zlib.crc32(block)) for block in table)
    return framed(header, b"".join(blocks))


def one(code, block, count=2, base=b"\1\7"):
    """One tensor `w` of so many values in one block of that code, as a difference to version 7."""
    dtype, shape = (1, [count]) if code == 2 else (0, [count])
    return body([(b"w", dtype, code, shape)], [block], base=base, block_values=max(count, 1))


def plane(content, method=0):
    return bytes([method]) + struct.pack("<I", len(content)) + content
