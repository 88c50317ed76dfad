"""fedlearn's wire format, written from its specification (docs/wire-format.md).

    body, owed = encode(update, "q8", base=model, base_version=5)
    model = decode(body, base=model, base_version=5)

Read it in this order: `limits`, `cursor`, `header`, `bits`, `planes`, `blocks`, `container`; `safetensors` stands alone.
Tensors are a dict of numpy arrays by name, float32 or int64, of 0 to 8 dimensions. All that is refused is a WireError.
"""

from .container import decode, encode
from .header import ENCODINGS, MEDIA_TYPE, Header, Tensor, read_header
from .limits import WireError

__all__ = ["ENCODINGS", "MEDIA_TYPE", "Header", "Tensor", "WireError", "decode", "encode", "read_header"]
