"""Bodies that fedlearn's own encoder wrote, and those that this one did."""

import unittest

import golden
import write_golden
from fedlearn_wire import ENCODINGS, decode, encode, read_header
from same import Same

OURS = ["f32", "bf16", "bf16-delta", "q8", "q4", "topk", "q4-small-blocks", "topk-small-blocks"]


class Golden(Same):
    def test_what_fedlearn_wrote_is_read_to_the_last_bit(self):
        for name in OURS:
            with self.subTest(name):
                body = golden.body(name)
                read = decode(body, golden.values("base"), golden.BASE_VERSION)
                self.assert_same(read, golden.values_of(name, read_header(body).encoding))

    def test_what_needs_no_base_is_read_without_one(self):
        for name in ["f32", "bf16"]:
            self.assert_same(decode(golden.body(name)), golden.values(name))

    def test_the_golden_bodies_have_what_is_hard(self):
        header = read_header(golden.body("q4-small-blocks"))
        self.assertEqual({tensor.code.name for tensor in header.tensors}, {"I64", "BF16_DELTA", "Q4"})
        self.assertEqual({len(tensor.shape) for tensor in header.tensors}, {0, 1, 2, 3})
        self.assertIn(0, [tensor.count for tensor in header.tensors])
        self.assertGreater(len(header.blocks), 4)
        self.assertIn(b"\x28\xb5\x2f\xfd", golden.body("bf16"))  # a zstd frame

    def test_f32_is_written_byte_for_byte_as_fedlearn_does(self):
        self.assertEqual(encode(golden.values("f32"), "f32")[0], golden.body("f32"))

    def test_what_this_encoder_writes_stands_for_the_values_in_its_golden_files(self):
        base = golden.values("base")
        for encoding in ENCODINGS:
            with self.subTest(encoding):
                want = golden.values_of(f"python-{encoding}", encoding)
                for body in [golden.body(f"python-{encoding}"), write_golden.written(encoding)]:
                    self.assert_same(decode(body, base, golden.BASE_VERSION), want)


if __name__ == "__main__":
    unittest.main()
