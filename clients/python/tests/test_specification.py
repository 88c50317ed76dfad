"""Every worked example of docs/wire-format.md, read from the document itself."""

import pathlib
import re
import unittest
import zlib

import numpy as np
from fedlearn_wire import Header, Tensor, bits, decode, encode, read_header
from fedlearn_wire.header import Code
from same import Same

TEXT = (pathlib.Path(__file__).resolve().parents[3] / "docs" / "wire-format.md").read_text(encoding="utf-8")
VALUES = {"conv.weight": np.float32([[1, -2], [0.1, 0]]), "steps": np.array(300)}
BASE = {"conv.weight": np.float32([[1, -2], [0.25, 0]]), "steps": np.array(0)}


def dumped():
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)$", TEXT, re.MULTILINE)
    return bytes.fromhex("".join(lines))


def rows():
    """Of the table of blocks: encoding and bytes."""
    found = re.findall(r"^\| `([a-z0-9-]+)` \| (`[0-9a-f]{2}[ `][^|]*) \|", TEXT, re.MULTILINE)
    return {encoding: bytes.fromhex(re.sub("[^0-9a-f]", "", shown)) for encoding, shown in found}


class Specification(Same):
    def test_the_dumped_body_is_read_as_the_text_says(self):
        self.assertEqual(len(dumped()), 133)
        tensors = (Tensor("conv.weight", Code.BF16, (2, 2)), Tensor("steps", Code.I64, ()))
        blocks = ((18, 0x3A75FD39), (13, 0x01D64CD1))
        self.assertEqual(read_header(dumped()), Header("bf16", 5, tensors, 262_144, blocks))
        want = {"conv.weight": np.float32([[1, -2], [0.10009765625, 0]]), "steps": np.array(300)}
        self.assert_same(decode(dumped()), want)

    def test_the_dumped_body_is_what_is_written(self):
        self.assertEqual(encode(VALUES, "bf16", base_version=5)[0], dumped())

    def test_the_bytes_of_the_table_of_offsets_stand_where_it_says(self):
        found = re.findall(r"^\| ([0-9a-f]{4}) \| (`.*?`) \|", TEXT, re.MULTILINE)
        self.assertEqual(len(found), 21)
        for offset, shown in found:
            at = int(offset, 16)
            first, _, last = re.sub("[`, ]", "", shown).partition("...")
            first = bytes.fromhex(first)
            self.assertEqual(dumped()[at : at + len(first)], first, offset)
            if last:
                self.assertIn(bytes.fromhex(last), dumped()[at:], offset)

    def test_the_block_in_each_other_encoding_is_what_is_written_and_read(self):
        self.assertEqual(list(rows()), ["f32", "bf16-delta", "q8", "q4", "topk"])
        for encoding, block in rows().items():
            with self.subTest(encoding):
                own = {"conv.weight": VALUES["conv.weight"]}
                base = {"conv.weight": BASE["conv.weight"]}
                body, _ = encode(own, encoding, base, 5, seed=0)  # 0.1 is rounded up
                self.assertEqual(body[-len(block) :], block)
                self.assertEqual(read_header(body).blocks, ((len(block), zlib.crc32(block)),))
                read = decode(body, base, 5)["conv.weight"]
                np.testing.assert_allclose(read, own["conv.weight"], atol=1e-3 if encoding == "bf16-delta" else 1e-7)

    def test_the_numbers_in_the_text(self):
        self.assertEqual(zlib.crc32(b"123456789"), 0xCBF43926)
        tenth = bits.rounded(np.float32([0.1]))
        self.assertEqual((tenth[0], bits.rotated(tenth)[0]), (0x3DCD, 0x7B9A))
        zero = np.zeros(4, np.uint16)
        small = np.array([0, -1, 1, -2], np.int16).view(np.uint16)
        self.assertEqual(bits.zigzag(small, zero).tolist(), [0, 1, 2, 3])
        self.assertEqual(bits.rounded(BASE["conv.weight"].reshape(-1)).tolist(), [0x3F80, 0xC000, 0x3E80, 0])


if __name__ == "__main__":
    unittest.main()
