"""The arithmetic of bf16: rounding, rotating, differences. All on flat arrays, uint16 where bits are meant."""

import numpy as np


def rounded(values):
    """The upper 16 bits of each float32, to nearest, ties to even. Near 3.4e38 that is infinity, 0x7f80."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


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
