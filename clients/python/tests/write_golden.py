"""Writes tests/golden/python-*: the update of the golden files as this encoder sends it, for fedlearn's own reader.

    PYTHONPATH=.tools/python:clients/python python3 clients/python/tests/write_golden.py
"""

import golden
from fedlearn_wire import ENCODINGS, decode, encode, safetensors


def written(encoding):
    """The same at every run, with the same zstd."""
    update, base = golden.values("f32"), golden.values("base")
    if encoding in ("f32", "bf16"):
        return encode(update, encoding)[0]  # as a global model
    small = 333 if encoding == "topk" else 1000  # blocks that end within tensors
    return encode(update, encoding, base, golden.BASE_VERSION, seed=3, topk_fraction=0.05, block_values=small)[0]


if __name__ == "__main__":
    for encoding in ENCODINGS:
        name = f"python-{encoding}"
        body = written(encoding)
        (golden.FOLDER / f"{name}.params").write_bytes(body)
        if encoding not in ("f32", "bf16"):  # which are what f32.safetensors and bf16.safetensors say
            values = safetensors.write(decode(body, golden.values("base"), golden.BASE_VERSION))
            (golden.FOLDER / f"{name}.safetensors").write_bytes(values)
