"""What is refused, and the bounds: section "Limits"."""

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 1_024
MAX_DIMENSIONS = 8
MAX_VALUES = 1 << 32
MAX_BLOCK_VALUES = 262_144
MAX_BLOCKS = 65_536
MAX_WINDOW_BYTES = 8 << 20


class WireError(ValueError):
    """A body that is not read, or values that are not sent; the message names the thing and the bound."""


def require(holds, message):
    """Refuses with that message unless it holds."""
    if not holds:
        raise WireError(message)


def max_body_bytes(tensors):
    """The largest body of a model of these tensors (of `header.Tensor`), as sent and as expanded."""
    return MAX_HEADER_BYTES + sum(tensor.dtype.itemsize * tensor.count for tensor in tensors)
