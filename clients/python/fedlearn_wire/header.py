"""What stands before the blocks: signature, version, header and its checksum (sections "Container" and "Header")."""

import hashlib
import itertools
import math
import operator
import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from . import limits
from .cursor import Cursor, varint
from .limits import require

MEDIA_TYPE = "application/vnd.fedlearn.params"
SIGNATURE = b"\x89FLP\r\n\x1a\n"
VERSION = 1
F32, I64 = np.dtype("<f4"), np.dtype("<i8")
DTYPES = (F32, I64)  # by code
ENCODINGS = ("f32", "bf16", "bf16-delta", "q8", "q4", "topk")  # what a body is asked for, by code


class Code(IntEnum):
    """How the values of one tensor are written."""

    F32 = 0
    BF16 = 1
    I64 = 2
    BF16_DELTA = 3
    Q8 = 4
    Q4 = 5
    TOPK = 6

    @property
    def dtype(self):
        return I64 if self is Code.I64 else F32

    @property
    def needs_base(self):
        return self >= Code.BF16_DELTA


LOSSY = {"q8": Code.Q8, "q4": Code.Q4, "topk": Code.TOPK}


def code_for(encoding, dtype, shape):
    """The code that a writer who was asked for `encoding` gives a tensor."""
    if dtype == I64:
        return Code.I64
    if encoding in LOSSY:  # biases and statistics are few and must be exact
        return LOSSY[encoding] if len(shape) >= 2 else Code.BF16_DELTA
    return {"f32": Code.F32, "bf16": Code.BF16, "bf16-delta": Code.BF16_DELTA}[encoding]


@dataclass(frozen=True)
class Tensor:
    """One row of the header: a name, how the values are written, and a shape of 0 to 8 dimensions."""

    name: str
    code: Code
    shape: tuple

    @property
    def dtype(self):
        return self.code.dtype

    @property
    def count(self):
        """Number of values; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of a body. `blocks` has (length in bytes, CRC-32) of each block."""

    encoding: str
    base_version: int | None
    tensors: tuple
    block_values: int
    blocks: tuple


def schema_digest(tensors):
    """SHA-256 over names, dtypes and shapes: 32 bytes."""
    sha = hashlib.sha256()
    for tensor in tensors:
        name = tensor.name.encode()
        sha.update(len(name).to_bytes(4, "little") + name + bytes([DTYPES.index(tensor.dtype)]))
        sha.update(len(tensor.shape).to_bytes(4, "little"))
        for dimension in tensor.shape:
            sha.update(dimension.to_bytes(8, "little"))
    return sha.digest()


def block_count(tensors, block_values):
    """How many blocks these tensors need: those of each encoding are one sequence."""
    counts = [sum(tensor.count for tensor in tensors if tensor.code == code) for code in Code]
    return sum(-(-count // block_values) for count in counts)


def check_tensors(tensors):
    """Refuses tensors beyond the limits, out of order, or twice. They are looked at one by one, as they come."""
    previous, values = None, 0
    for tensor in tensors:
        name = tensor.name.encode()
        bound = f"a name has 1 to {limits.MAX_NAME_BYTES} bytes"
        require(1 <= len(name) <= limits.MAX_NAME_BYTES, f"{bound}; there is one of {len(name)}")
        require(name != previous, f"tensor {tensor.name} comes twice")
        require(previous is None or name > previous, f"tensor {tensor.name} is out of order")
        dimensions = len(tensor.shape)
        bound = f"at most {limits.MAX_DIMENSIONS}"
        require(dimensions <= limits.MAX_DIMENSIONS, f"tensor {tensor.name} has {dimensions} dimensions, {bound}")
        for product in itertools.accumulate(tensor.shape, operator.mul):
            require(product < 1 << 64, f"tensor {tensor.name}: the dimensions {tensor.shape} multiply to 2^64 or more")
        values += tensor.count
        require(values <= limits.MAX_VALUES, f"tensor {tensor.name}: more than {limits.MAX_VALUES} values in all")
        previous = name
        yield tensor


def read_header(body):
    """The Header of a body (bytes-like), of which all up to the blocks is checked. Raises WireError."""
    return read_frame(body)[0]


def read_frame(body):
    """The Header, and a Cursor on the blocks."""
    body = Cursor(body, "the body")
    require(bytes(body.take(8)) == SIGNATURE, "the signature is not that of a container")
    version = body.u32()
    require(version == VERSION, f"the format version is {version}, and {VERSION} is known")
    length = body.u32()
    bound = f"at most {limits.MAX_HEADER_BYTES}"
    require(length <= limits.MAX_HEADER_BYTES, f"the header has {length} bytes, {bound}")
    content = body.take(length)
    found = zlib.crc32(body.data[: body.at])
    require(body.u32() == found, f"the header's checksum is wrong: its bytes give {found:#010x}")
    header = _read_content(Cursor(content, "the header"))
    length, left = sum(length for length, _ in header.blocks), len(body.data) - body.at
    require(length <= left, f"the body is too short: {length} bytes of blocks expected, {left} found")
    require(length >= left, f"the body is too long: {length} bytes of blocks expected, {left} found")
    return header, body


def _read_content(content):
    digest = bytes(content.take(32))
    encoding = content.u8()
    require(encoding < len(ENCODINGS), f"the body's encoding {encoding} is unknown")
    has_base = content.u8()
    require(has_base <= 1, f"the base version's option is {has_base}, neither 0 nor 1")
    base_version = content.varint(64) if has_base else None
    count = content.varint(64)
    require(count <= limits.MAX_TENSORS, f"{count} tensors, at most {limits.MAX_TENSORS}")
    tensors = tuple(check_tensors(_read_tensor(content) for _ in range(count)))
    require(digest == schema_digest(tensors), "the schema digest is not that of the tensors")
    block_values = content.varint(32)
    bound = f"1 to {limits.MAX_BLOCK_VALUES}"
    require(1 <= block_values <= limits.MAX_BLOCK_VALUES, f"a block has {block_values} values, not {bound}")
    count, needed = content.varint(64), block_count(tensors, block_values)
    require(count <= limits.MAX_BLOCKS, f"{count} blocks, at most {limits.MAX_BLOCKS}")
    require(count == needed, f"{count} blocks, and the tensors need {needed}")
    rows = Cursor(content.take(8 * count), "the block table")
    blocks = tuple((rows.u32(), rows.u32()) for _ in range(count))
    content.end()
    return Header(ENCODINGS[encoding], base_version, tensors, block_values, blocks)


def _read_tensor(content):
    length = content.varint(64)
    require(length <= limits.MAX_NAME_BYTES, f"a name has {length} bytes, at most {limits.MAX_NAME_BYTES}")
    try:
        name = str(content.take(length), "utf-8")
    except UnicodeDecodeError as error:
        raise limits.WireError(f"a tensor's name is not UTF-8: {error}") from None
    dtype, code = content.u8(), content.u8()
    require(dtype < len(DTYPES), f"tensor {name}: dtype {dtype} is unknown")
    known = code in iter(Code) and Code(code).dtype == DTYPES[dtype]
    require(known, f"tensor {name}: encoding {code} is unknown or not for dtype {dtype}")
    count = content.varint(64)
    require(count <= limits.MAX_DIMENSIONS, f"tensor {name} has {count} dimensions, at most {limits.MAX_DIMENSIONS}")
    return Tensor(name, Code(code), tuple(content.varint(64) for _ in range(count)))


def write_frame(header):
    """All that stands before the blocks, as bytes. Raises WireError where it is too long to be read."""
    base = b"\0" if header.base_version is None else b"\1" + varint(header.base_version)
    content = schema_digest(header.tensors) + bytes([ENCODINGS.index(header.encoding)]) + base
    content += varint(len(header.tensors)) + b"".join(map(_write_tensor, header.tensors))
    content += varint(header.block_values) + varint(len(header.blocks))
    content += b"".join(length.to_bytes(4, "little") + crc.to_bytes(4, "little") for length, crc in header.blocks)
    bound = f"at most {limits.MAX_HEADER_BYTES}"
    require(len(content) <= limits.MAX_HEADER_BYTES, f"the header has {len(content)} bytes, {bound}")
    frame = SIGNATURE + VERSION.to_bytes(4, "little") + len(content).to_bytes(4, "little") + content
    return frame + zlib.crc32(frame).to_bytes(4, "little")


def _write_tensor(tensor):
    name = tensor.name.encode()
    shape = varint(len(tensor.shape)) + b"".join(map(varint, tensor.shape))
    return varint(len(name)) + name + bytes([DTYPES.index(tensor.dtype), tensor.code]) + shape
