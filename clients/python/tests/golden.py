"""The golden files, in tests/golden of the checkout."""

import pathlib

from fedlearn_wire import safetensors

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "tests" / "golden"
BASE_VERSION = 5


def body(name):
    return (FOLDER / f"{name}.params").read_bytes()


def values(name):
    return safetensors.read((FOLDER / f"{name}.safetensors").read_bytes())


def values_of(name, encoding):
    """Which values a body stands for: those of a model are the same, whoever wrote it; an update's are rounded at random."""
    return values({"f32": "f32", "bf16": "bf16"}.get(encoding, "bf16" if name == "bf16-delta" else name))
