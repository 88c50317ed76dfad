"""Plain safetensors: a length (u64), a header of JSON, the values. Section "Safetensors"."""

import json
import math

import numpy as np

from . import limits
from .cursor import Cursor
from .header import F32, I64
from .limits import require

MEDIA_TYPE = "application/vnd.safetensors"
_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}


def read(body):
    """The tensors of a body: a dict of new arrays by name, float32 (F16 and BF16 widened) or int64.

    Raises WireError.
    """
    body = Cursor(body, "the body")
    length = int.from_bytes(body.take(8), "little")
    bound = f"at most {limits.MAX_HEADER_BYTES}"
    require(length <= limits.MAX_HEADER_BYTES, f"the header has {length} bytes, {bound}")
    try:
        header = json.loads(bytes(body.take(length)))
        header.pop("__metadata__", None)
        rows = [(row["data_offsets"], name, row["dtype"], row["shape"]) for name, row in header.items()]
        # Without values begin and end are the same; those come before what begins there.
        rows.sort(key=lambda row: tuple(map(int, row[0])))
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise limits.WireError(f"the header is unreadable: {error!r}") from None
    require(len(rows) <= limits.MAX_TENSORS, f"{len(rows)} tensors, at most {limits.MAX_TENSORS}")
    tensors = {}
    for offsets, name, dtype, shape in rows:
        require(dtype in _BYTES, f"tensor {name}: dtype {dtype} is unknown")
        whole = isinstance(shape, list) and all(type(d) is int and d >= 0 for d in shape)
        require(whole and len(shape) <= limits.MAX_DIMENSIONS, f"tensor {name}: {shape} is no shape")
        size = _BYTES[dtype] * math.prod(shape)
        begin = body.at - 8 - length
        want = [begin, begin + size]
        require(offsets == want, f"tensor {name} is at {offsets} and should be at {want}: a gap, or an overlap")
        values = _widened(body.take(size), dtype)
        require(np.isfinite(values).all(), f"tensor {name} has NaN or infinity")
        tensors[name] = values.reshape(shape)
    body.end()
    return {name: tensors[name] for name in sorted(tensors, key=str.encode)}


def _widened(data, dtype):
    """New flat values, float32 or int64."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    return np.frombuffer(data, F32 if dtype == "F32" else I64).copy()


def write(tensors):
    """The body of a dict of float32 and int64 arrays."""
    header, values = {}, []
    at = 0
    # Wider values first, so that all are aligned; then by name.
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0].encode())):
        require(array.dtype in (F32, I64), f"tensor {name} is {array.dtype}, neither float32 nor int64")
        dtype = "F32" if array.dtype == F32 else "I64"
        require(np.isfinite(array).all(), f"tensor {name} has NaN or infinity")
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        values.append(array.tobytes())
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(values)
