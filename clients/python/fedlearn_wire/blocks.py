"""The content of one block in each encoding: section "Blocks".

A reader takes a Cursor on the block, the number of values n, the base's values there (n float32; None where the
encoding needs none) and the sizes of the block's groups; it returns n values. A writer takes n values, or for what is
quantised the n changes, and returns the bytes; with what they tell of the changes, where that is not all.
"""

import numpy as np

from . import bits
from .header import F32, I64, Code
from .limits import require
from .planes import read_plane, written_plane

GROUP_VALUES = 1_024


def group_sizes(pieces):
    """Sizes of the groups that share a scale: each piece (its number of values) is cut anew."""
    sizes = []
    for piece in pieces:
        full, rest = divmod(piece, GROUP_VALUES)
        sizes += [GROUP_VALUES] * full + [rest] * (rest > 0)
    return sizes


# Reading


def read_f32(block, n, base, groups):
    return np.frombuffer(block.take(4 * n), F32)


def read_i64(block, n, base, groups):
    return read_plane(block, 8 * n).view(I64)


def read_bf16(block, n, base, groups):
    return bits.widened(bits.unrotated(bits.joined(read_plane(block, n), read_plane(block, n))))


def read_bf16_delta(block, n, base, groups):
    codes = bits.joined(read_plane(block, n), read_plane(block, n))
    return bits.widened(bits.unzigzag(codes, bits.rounded(base)))


def read_q8(block, n, base, groups):
    scales = np.frombuffer(block.take(4 * len(groups)), F32)
    return _moved(base, read_plane(block, n).view(np.int8), np.repeat(scales, groups))


def read_q4(block, n, base, groups):
    scales = np.frombuffer(block.take(4 * len(groups)), F32)
    plane = read_plane(block, (n + 1) // 2)
    halves = np.stack([plane & 0xF, plane >> 4], axis=1).reshape(-1)  # the lower half comes first
    require(n % 2 == 0 or halves[-1] == 0, f"{block.what}: the unused half of the last byte is {halves[-1]}, not 0")
    codes = (halves[:n] ^ 8).astype(np.int8) - 8  # a sign of 4 bits
    return _moved(base, codes, np.repeat(scales, groups))


def read_topk(block, n, base, groups):
    scale = np.frombuffer(block.take(4), F32)
    entries, gap_bytes = block.u32(), block.u32()
    require(entries <= n, f"{block.what}: {entries} entries among {n} values")
    most = entries + (n - entries) // 255  # a byte for each, and one more for every 255 values passed over
    require(gap_bytes <= most, f"{block.what}: {gap_bytes} bytes of gaps, at most {most}")
    gaps, codes = read_plane(block, gap_bytes), read_plane(block, entries).view(np.int8)
    ends = np.flatnonzero(gaps != 255)
    whole = len(gaps) == 0 or gaps[-1] != 255
    require(len(ends) == entries and whole, f"{block.what}: the gaps are of {len(ends)} entries, not of {entries}")
    places = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(entries)
    require(entries == 0 or places[-1] < n, f"{block.what}: an entry is beyond the {n} values")
    values = base.copy()
    values[places] = _moved(base[places], codes, scale)
    return values


def _moved(base, codes, scales):
    """base + c * s in float32: the product rounded, then the sum. What overflows is refused by who asked."""
    with np.errstate(all="ignore"):
        return base + codes.astype(np.float32) * scales


READERS = {
    Code.F32: read_f32,
    Code.BF16: read_bf16,
    Code.I64: read_i64,
    Code.BF16_DELTA: read_bf16_delta,
    Code.Q8: read_q8,
    Code.Q4: read_q4,
    Code.TOPK: read_topk,
}

# Writing


def write_f32(values):
    return values.astype(F32).tobytes()


def write_i64(values):
    return written_plane(values.astype(I64).view(np.uint8))


def write_bf16(rounded):
    """The block of values that are rounded to bf16 (n uint16)."""
    high, low = bits.split(bits.rotated(rounded))
    return written_plane(high, try_runs=False) + written_plane(low, try_runs=False)


def write_bf16_delta(rounded, base):
    """The block of values that are rounded to bf16 (n uint16)."""
    high, low = bits.split(bits.zigzag(rounded, bits.rounded(base)))
    return written_plane(high) + written_plane(low)


def write_q8(changes, groups, random):
    """The block, and c * s for each of the n changes."""
    codes, scales, told = _quantised(changes, groups, 127, random)
    return scales.astype(F32).tobytes() + written_plane(codes.view(np.uint8)), told


def write_q4(changes, groups, random):
    """The block, and c * s for each of the n changes."""
    codes, scales, told = _quantised(changes, groups, 7, random)
    halves = np.append(codes, np.zeros(len(codes) % 2, np.int8)).view(np.uint8) & 0xF
    return scales.astype(F32).tobytes() + written_plane(halves[0::2] | (halves[1::2] << 4)), told


def write_topk(changes, chosen, random):
    """The block, and c * s for each of the n changes, 0 for those not chosen (n bool)."""
    places = np.flatnonzero(chosen & (changes != 0))  # a change of 0 needs no entry
    codes, scales, of_entries = _quantised(changes[places], [len(places)] * (len(places) > 0), 127, random)
    gaps = np.diff(places, prepend=-1) - 1
    plane = np.full(np.sum(gaps // 255 + 1), 255, np.uint8)
    plane[np.cumsum(gaps // 255 + 1) - 1] = gaps % 255
    told = np.zeros(len(changes), np.float32)
    told[places] = of_entries
    scale = scales.astype(F32).tobytes() or bytes(4)
    counts = len(places).to_bytes(4, "little") + len(plane).to_bytes(4, "little")
    planes = written_plane(plane, try_runs=False) + written_plane(codes.view(np.uint8), try_runs=False)
    return scale + counts + planes, told


def _quantised(changes, groups, most, random):
    """Codes (int8) within -most to most, the scale of each group, and c * s; rounded up or down at random, right on
    average."""
    if len(changes) == 0:
        return np.zeros(0, np.int8), np.zeros(0, np.float32), np.zeros(0, np.float32)
    starts = np.cumsum([0] + groups[:-1])
    scales = np.maximum.reduceat(np.abs(changes), starts) / np.float32(most)
    each = np.repeat(scales, groups)
    steps = np.divide(changes, each, out=np.zeros_like(changes), where=each > 0)
    # In float64: a random number near 1 added to a whole number in float32 would give the next whole one.
    codes = np.floor(steps + random.random(len(changes))).clip(-most, most).astype(np.int8)
    return codes, scales, codes.astype(np.float32) * each
