"""Bodies as a whole: tensors to blocks, and back."""

import zlib
from dataclasses import dataclass

import numpy as np

from . import bits, blocks, limits
from .cursor import Cursor
from .header import ENCODINGS, F32, I64, LOSSY, Code, Header, Tensor, check_tensors, code_for, read_frame, write_frame
from .limits import WireError, require

LEAST_VALUES = 1_024  # of each tensor, by topk


@dataclass(frozen=True)
class Sequence:
    """The values of all tensors of one encoding, one after the other."""

    code: Code
    tensors: list
    offsets: np.ndarray  # where each tensor begins, and the end: one more than there are tensors

    def spans(self, block_values):
        """Begin and end of each block, in values."""
        count = int(self.offsets[-1])
        return [(begin, min(begin + block_values, count)) for begin in range(0, count, block_values)]

    def groups(self, begin, end):
        """Sizes of the groups of a block."""
        inside = self.offsets[(self.offsets > begin) & (self.offsets < end)]
        pieces = np.diff(np.concatenate([[begin], inside, [end]]))
        return blocks.group_sizes(pieces.tolist())

    def gathered(self, arrays):
        """The values of these tensors in one flat array."""
        flat = [arrays[tensor.name].reshape(-1) for tensor in self.tensors]
        return np.concatenate(flat) if flat else np.zeros(0, self.code.dtype)

    def held(self, base):
        """The base's values, flat; None where none are needed: by the encoding, or because there are none."""
        return self.gathered(base) if self.code.needs_base and base is not None else None

    def scattered(self, flat):
        """The other way round: the flat array's parts by name, in their shapes, not copied."""
        parts = zip(self.tensors, self.offsets, self.offsets[1:])
        try:
            return {tensor.name: flat[begin:end].reshape(tensor.shape) for tensor, begin, end in parts}
        except ValueError as error:  # such as (2^40, 2^40, 0)
            raise WireError(f"numpy cannot hold a shape: {error}") from None

    def place(self, index):
        """Names the value at this index of the sequence."""
        at = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return f"tensor {self.tensors[at].name}, value {index - int(self.offsets[at])}"

    def require_finite(self, values, begin=0):
        """Refuses NaN and infinity among float32 values that begin at this index of the sequence."""
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise WireError(f"{self.place(begin + int(bad[0]))} is {values[bad[0]]}, not finite")


def sequences(tensors):
    """One Sequence for each encoding, in the order of the codes."""
    result = []
    for code in Code:
        own = [tensor for tensor in tensors if tensor.code == code]
        result.append(Sequence(code, own, np.cumsum([0] + [tensor.count for tensor in own])))
    return result


def decode(body, base=None, base_version=None, max_bytes=1 << 32):
    """The tensors of a container: a dict of new arrays by name, float32 or int64.

    `base` (a like dict) is what the caller holds, of version `base_version`: the body must have its tensors, and may
    be a difference to it. Without one any tensors are taken, of up to `max_bytes` in memory. Raises WireError.
    """
    base = None if base is None else _arrays(base, "the base")
    header, rest = read_frame(body)
    _require_model(header.tensors, base)
    _require_base(header, base, base_version)
    largest = limits.max_body_bytes(header.tensors)
    require(len(body) <= largest, f"the body has {len(body)} bytes, at most {largest}")
    needed = largest - limits.MAX_HEADER_BYTES
    require(base is not None or needed <= max_bytes, f"the values take {needed} bytes, at most {max_bytes}")

    tensors, rows = {}, iter(enumerate(header.blocks))
    for sequence in sequences(header.tensors):
        values = np.empty(sequence.offsets[-1], sequence.code.dtype)
        held = sequence.held(base)
        for begin, end in sequence.spans(header.block_values):
            index, (length, checksum) = next(rows)
            block = Cursor(rest.take(length), f"block {index}")
            require(zlib.crc32(block.data) == checksum, f"block {index}: the checksum is wrong")
            there = None if held is None else held[begin:end]
            read = blocks.READERS[sequence.code]
            values[begin:end] = read(block, end - begin, there, sequence.groups(begin, end))
            block.end()
            if sequence.code.dtype == F32:
                sequence.require_finite(values[begin:end], begin)
        tensors |= sequence.scattered(values)
    return {tensor.name: tensors[tensor.name] for tensor in header.tensors}


def encode(
    tensors,
    encoding,
    base=None,
    base_version=None,
    owed=None,
    seed=None,
    topk_fraction=0.01,
    block_values=limits.MAX_BLOCK_VALUES,
):
    """A container of these tensors (float32 or int64 arrays by name), and what it leaves owed.

    `base`, of `base_version`, is the model as it was received and trained from; all encodings but f32 and bf16 need it,
    and bf16 without it is rounded to nearest, as a model is and an update is not. `owed` is what earlier updates have
    lost, by name, as the last call returned it; keep the new one once the body has been accepted. `seed` decides how
    values are rounded at random: None, or another one for each update. `topk_fraction` of each tensor is sent,
    rounded up, and at least LEAST_VALUES. Raises WireError for what no reader would take.
    """
    require(encoding in ENCODINGS, f"the encoding {encoding} is unknown")
    arrays = _arrays(tensors, "the tensors")
    rows = [Tensor(name, code_for(encoding, a.dtype, a.shape), a.shape) for name, a in arrays.items()]
    rows = tuple(check_tensors(rows))
    require(len(rows) <= limits.MAX_TENSORS, f"{len(rows)} tensors, at most {limits.MAX_TENSORS}")
    base = None if base is None else _arrays(base, "the base")
    _require_model(rows, base)
    _require_base(Header(encoding, base_version, rows, block_values, ()), base, base_version)
    require(0 < topk_fraction <= 1, f"the fraction {topk_fraction} is not above 0 and at most 1")

    written, left, random = [], {}, np.random.default_rng(seed)
    for sequence in sequences(rows):
        values = sequence.gathered(arrays)
        if sequence.code.dtype == F32:
            sequence.require_finite(values)
        held = sequence.held(base)
        if sequence.code in LOSSY.values():
            held = np.zeros_like(values) if held is None else held
            debts = {t.name: _debt(owed, t) for t in sequence.tensors}
            with np.errstate(over="ignore"):  # what overflows is refused, not warned of
                changes = values - held + sequence.gathered(debts)
                sequence.require_finite(changes)
                bodies, told = _quantised_blocks(sequence, changes, block_values, topk_fraction, random)
                sequence.require_finite(held + told)  # what the reader will get
            left |= sequence.scattered(changes - told)
        elif sequence.code in (Code.BF16, Code.BF16_DELTA):
            if base is None:
                rounded = bits.rounded(values)
            else:
                rounded = bits.rounded_at_random(values, sequence.gathered(base), random)
            bodies = [_rounded_block(sequence.code, rounded, held, *span) for span in sequence.spans(block_values)]
        else:
            write = {Code.F32: blocks.write_f32, Code.I64: blocks.write_i64}[sequence.code]
            bodies = [write(values[begin:end]) for begin, end in sequence.spans(block_values)]
        written += bodies
    table = tuple((len(block), zlib.crc32(block)) for block in written)
    return write_frame(Header(encoding, base_version, rows, block_values, table)) + b"".join(written), left


def _rounded_block(code, rounded, held, begin, end):
    if code == Code.BF16_DELTA:
        return blocks.write_bf16_delta(rounded[begin:end], held[begin:end])
    return blocks.write_bf16(rounded[begin:end])


def _quantised_blocks(sequence, changes, block_values, topk_fraction, random):
    """The blocks, and what they tell of the changes."""
    written, told = [], np.zeros_like(changes)
    chosen = _largest(sequence, changes, topk_fraction) if sequence.code == Code.TOPK else None
    for begin, end in sequence.spans(block_values):
        if sequence.code == Code.TOPK:
            block, part = blocks.write_topk(changes[begin:end], chosen[begin:end], random)
        else:
            write = blocks.write_q8 if sequence.code == Code.Q8 else blocks.write_q4
            block, part = write(changes[begin:end], sequence.groups(begin, end), random)
        written.append(block)
        told[begin:end] = part
    return written, told


def _largest(sequence, changes, fraction):
    """Which changes are the largest of their tensor: bool, one for each."""
    chosen = np.zeros(len(changes), bool)
    for begin, end in zip(sequence.offsets, sequence.offsets[1:]):
        keep = min(max(int(np.ceil(fraction * (end - begin))), LEAST_VALUES), end - begin)
        if keep:
            order = np.argpartition(np.abs(changes[begin:end]), -keep)
            chosen[begin + order[-keep:]] = True
    return chosen


def _debt(owed, tensor):
    """What is owed of a tensor: float32 of its shape, zeros where there is nothing."""
    debt = (owed or {}).get(tensor.name)
    if debt is None:
        return np.zeros(tensor.shape, np.float32)
    require(debt.shape == tensor.shape, f"tensor {tensor.name}: what is owed has another shape")
    return debt.astype(np.float32)


def _arrays(tensors, what):
    """The arrays by name, ascending by the bytes of the names; float32 and int64 only."""
    arrays = {name: np.asarray(tensors[name]) for name in sorted(tensors, key=str.encode)}
    for name, array in arrays.items():
        require(array.dtype in (F32, I64), f"{what}: tensor {name} is {array.dtype}, neither float32 nor int64")
    return arrays


def _require_model(tensors, base):
    """Refuses tensors that are not those of the base."""
    if base is None:
        return
    found = {tensor.name: tensor for tensor in tensors}
    for name in base.keys() - found.keys():
        raise WireError(f"tensor {name} is missing")
    for name, tensor in found.items():
        require(name in base, f"tensor {name} is not in the model")
        dtype, shape = base[name].dtype, base[name].shape
        require(tensor.dtype == dtype, f"tensor {name} is {tensor.dtype}, and {dtype} in the model")
        require(tensor.shape == shape, f"tensor {name} has the shape {tensor.shape}, and {shape} in the model")


def _require_base(header, base, held_version):
    """Refuses a difference to what is not held."""
    differences = [tensor.name for tensor in header.tensors if tensor.code.needs_base and tensor.count > 0]
    if differences:
        version = header.base_version
        require(version is not None, f"tensor {differences[0]} is a difference, and there is no base version")
        held = "none" if base is None else f"version {held_version}"
        known = base is not None and version == held_version
        require(known, f"tensor {differences[0]} is a difference to version {version}, and {held} is held")
