"""Planes: bytes of one kind, raw or as one zstd frame, never expanded beyond what the values need."""

import numpy as np
import zstandard

from . import limits
from .limits import WireError, require

RAW, ZSTD = 0, 1
_MAGIC = b"\x28\xb5\x2f\xfd"


def _compressor(**parameters):
    parameters = zstandard.ZstdCompressionParameters.from_level(1, min_match=7, write_content_size=True, **parameters)
    return zstandard.ZstdCompressor(compression_params=parameters)


# Looks for next to no matches: what is left is entropy coding, all that helps with exponents.
_ENTROPY = _compressor(strategy=zstandard.STRATEGY_FAST, window_log=17, hash_log=6)
# Finds runs as well, of the weights that training does not move.
_RUNS = _compressor(strategy=zstandard.STRATEGY_DFAST, window_log=18, hash_log=6, chain_log=10)


def read_plane(block, size):
    """The next plane of a block (a Cursor), which must have `size` bytes: a uint8 array."""
    method, length = block.u8(), block.u32()
    content = block.take(length)
    require(method in (RAW, ZSTD), f"{block.what}: plane method {method} is unknown")
    plane = _expanded(bytes(content), size, block.what) if method == ZSTD else content
    require(len(plane) == size, f"{block.what}: a plane has {len(plane)} bytes, and its values need {size}")
    return np.frombuffer(plane, np.uint8)


def _expanded(frame, size, what):
    require(frame[:4] == _MAGIC, f"{what}: a plane is not a zstd frame")
    try:
        frame_says = zstandard.get_frame_parameters(frame)
        require(frame_says.dict_id == 0, f"{what}: a plane wants a dictionary")
        declared = frame_says.content_size
        known = declared != zstandard.CONTENTSIZE_UNKNOWN
        require(not known or declared == size, f"{what}: a plane has {declared} bytes, and its values need {size}")
        window = frame_says.window_size
        bound = f"at most {limits.MAX_WINDOW_BYTES}"
        require(window <= limits.MAX_WINDOW_BYTES, f"{what}: a plane wants a window of {window} bytes, {bound}")
        decompressor = zstandard.ZstdDecompressor(max_window_size=limits.MAX_WINDOW_BYTES)
        if size > 0:
            return decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
        # `decompress` takes a declared size of 0 on trust, and a limit of 0 for none.
        nothing = decompressor.decompressobj()
        for byte in frame:  # at its end the object refuses what follows
            require(not nothing.decompress(bytes([byte])), f"{what}: a plane has bytes, and its values need 0")
        require(nothing.eof, f"{what}: a plane is not one zstd frame: it ends too early")
        return b""
    except zstandard.ZstdError as error:
        raise WireError(f"{what}: a plane is not one zstd frame that gives {size} bytes: {error}") from None


def written_plane(plane, try_runs=True):
    """A plane (a uint8 array) as bytes: as it is, or compressed where that is shorter."""
    plane = plane.tobytes()
    frames = [_ENTROPY.compress(plane)] + ([_RUNS.compress(plane)] if try_runs else [])
    frame = min(frames, key=len)
    method, content = (ZSTD, frame) if len(frame) < len(plane) else (RAW, plane)
    return bytes([method]) + len(content).to_bytes(4, "little") + content
