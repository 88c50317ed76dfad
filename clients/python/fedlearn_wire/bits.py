"""The arithmetic of bf16: rounding, rotating, differences. All on flat arrays, uint16 where bits are meant."""

import numpy as np


LARGEST = 0x7F7F  # of the finite bf16, but for the sign


def rounded(values):
    """The upper 16 bits of each float32, to nearest, ties to even; the largest for what is beyond it."""
    bits = values.view(np.uint32)
    return _finite(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


def rounded_at_random(values, base, random):
    """The upper 16 bits of each float32, up or down so that the mean is right.

    The values were trained from the base, and what is rounded is the base as bf16 has it and what has changed: where
    nothing has, that is exact.
    """
    received = widened(rounded(base))
    with np.errstate(over="ignore"):
        moved = np.where(values == base, received, values + (received - base))
    moved = np.clip(moved, np.finfo(np.float32).min, np.finfo(np.float32).max)
    chances = random.integers(0, 1 << 16, len(values), np.uint32)
    return _finite(((moved.view(np.uint32) + chances) >> 16).astype(np.uint16))


def _finite(bits):
    return bits - (bits & 0x7FFF > LARGEST).astype(np.uint16)


def widened(bits):
    """The float32 of each bf16: 16 zero bits appended."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rotated(bits):
    """The sign as the lowest bit, so that the upper byte is the exponent."""
    return (bits << 1) | (bits >> 15)


def unrotated(bits):
    return (bits >> 1) | (bits << 15)


def zigzag(values, base):
    """The difference modulo 2^16, small where it is near 0: 0, -1, 1, -2 become 0, 1, 2, 3."""
    difference = values - base
    return (difference << 1) ^ (0 - (difference >> 15))


def unzigzag(codes, base):
    return base + ((codes >> 1) ^ (0 - (codes & 1)))


def split(words):
    """The upper bytes, and the lower ones."""
    return (words >> 8).astype(np.uint8), (words & 0xFF).astype(np.uint8)


def joined(high, low):
    return (high.astype(np.uint16) << 8) | low
