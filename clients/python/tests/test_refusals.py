"""Everything in the section "Refused", each from a body that is right but for one thing."""

import math
import struct
import tracemalloc

import numpy as np
import zstandard
from bodies import SIGNATURE, W2, body, framed, one, plane, start, varint
from fedlearn_wire import WireError, decode, encode, read_header, safetensors
from same import Same

F32, BF16, I64, DELTA, Q8, Q4, TOPK = range(7)
HELD = {"w": np.array([1.0, 2.0], np.float32)}


class Refusals(Same):
    def refused(self, message, bad, base=None, base_version=7, **limits):
        with self.assertRaisesRegex(WireError, message):
            decode(bad, base, base_version, **limits)

    def refused_difference(self, message, code, block, count=2):
        """Of a block of the code against a base of ones, where `w` has so many values."""
        self.refused(message, one(code, block, count), {"w": np.ones(count, np.float32)})


class Frame(Refusals):
    def test_the_bodies_here_are_sound_but_for_what_they_change(self):
        self.assert_same(decode(body()), HELD)
        self.assertEqual(encode(HELD, "f32", block_values=2)[0], body())
        planes = plane(b"\x7f\x80") + plane(b"\0\0")  # 1.0 is 3f80, rotated 7f00; 2.0 is 4000, rotated 8000
        self.assert_same(decode(one(BF16, planes)), HELD)

    def test_every_flipped_bit(self):
        update = {"m": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(5), "v": np.ones(2, np.float32)}
        base = {name: np.zeros_like(array) for name, array in update.items()}
        for encoding in ["f32", "bf16", "bf16-delta", "q8", "q4", "topk"]:
            sound = encode(update, encoding, base, 3, topk_fraction=0.5)[0]
            for bit in range(8 * len(sound)):
                flipped = bytearray(sound)
                flipped[bit // 8] ^= 1 << bit % 8
                self.refused("", flipped, base, 3)

    def test_every_truncation(self):
        sound = body()
        for length in range(len(sound)):
            self.refused("ends too early|too short", sound[:length])

    def test_bytes_after_the_end(self):
        self.refused("too long: 8 bytes of blocks expected, 9 found", body() + b"\0")

    def test_another_signature(self):
        self.refused("signature", body().replace(SIGNATURE, b"\x89FLP\n\n\x1a\n"))

    def test_another_version(self):
        bad = bytearray(body())
        bad[8] = 2
        self.refused("version is 2, and 1 is known", bad)

    def test_a_header_over_the_limit(self):
        self.refused("4194305 bytes, at most 4194304", SIGNATURE + struct.pack("<II", 1, (4 << 20) + 1))

    def test_wrong_checksums(self):
        bad = bytearray(body())
        bad[20] ^= 1
        self.refused("the header's checksum", bad)
        self.refused("block 0: the checksum", body(table=[bytes(8)]))

    def test_a_body_over_the_largest(self):
        # 4 bytes for each of 2 values and 4 MiB; a zstd frame may be longer than what it expands to
        frame = b"\x28\xb5\x2f\xfd\x20\x02" + bytes(3) * (3 << 19) + b"\x11\0\0ab"
        block = plane(frame, 1) + plane(b"\0\0")
        self.refused("at most 4194312", one(BF16, block))


class HeaderFields(Refusals):
    def test_bytes_left_over_or_missing(self):
        sound = body()[16:-12]
        self.refused("the header is too long: 1 bytes left over", framed(sound + b"\0", body()[-8:]))
        self.refused("the header ends too early", framed(sound[:-1], body()[-8:]))
        self.refused("the header ends too early: 32 more bytes expected, 0 found", framed(b""))

    def test_an_option_that_is_neither(self):
        self.refused("option is 2", framed(start(base=b"\2")))

    def test_a_number_of_too_many_bits(self):
        self.assertEqual(read_header(body(base=b"\1" + varint(2**64 - 1))).base_version, 2**64 - 1)
        self.refused("more than 64 bits", body(base=b"\1" + varint(2**64)))
        self.refused("more than 64 bits", body(base=b"\1" + b"\x80" * 10 + b"\0"))

    def test_a_number_that_is_longer_than_need_be_is_read(self):
        self.assertEqual(read_header(body(base=b"\1\x85\0")).base_version, 5)

    def test_an_unknown_encoding_of_the_body(self):
        self.refused("encoding 6 is unknown", body(encoding=6))

    def test_names(self):
        self.refused("not UTF-8", body([(b"\xff", 0, 0, [2])]))
        self.refused("1 to 1024 bytes; there is one of 0", body([(b"", 0, 0, [2])]))
        self.refused("1025 bytes, at most 1024", body([(b"n" * 1025, 0, 0, [2])]))

    def test_unknown_dtypes_and_encodings(self):
        self.refused("dtype 9 is unknown", body([(b"w", 9, 0, [2])]))
        for dtype, code in [(0, I64), (1, F32), (1, BF16), (1, TOPK), (0, 7), (0, 99)]:
            self.refused(f"encoding {code} is unknown or not for", body([(b"w", dtype, code, [2])]))

    def test_too_many(self):
        self.refused("65537 tensors, at most 65536", framed(start() + varint(65_537)))
        self.refused("9 dimensions, at most 8", body([(b"w", 0, 0, [1] * 9)]))
        self.refused("more than 4294967296 values", body([(b"w", 0, 0, [2**32, 2])]))
        self.refused("tensor v: more than 4294967296", body([(b"u", 0, 0, [2**32]), (b"v", 0, 0, [1])]))
        self.refused("multiply to 2.64 or more", body([(b"w", 0, 0, [2**32, 2**32, 0])]))

    def test_more_values_than_the_caller_wants(self):
        self.refused("8 bytes, at most 7", body(), max_bytes=7)

    def test_tensors_twice_or_out_of_order(self):
        self.refused("w comes twice", body(W2 * 2))
        self.refused("a is out of order", body([*W2, (b"a", 0, 0, [2])]))

    def test_another_digest(self):
        self.refused("schema digest", body(sha=bytes(32)))

    def test_another_model(self):
        w, n = np.zeros(2, np.float32), np.array([7])
        self.refused("tensor n is missing", body(), {"n": n, "w": w})
        self.refused("tensor w is not in the model", body(), {})
        self.refused("tensor w is float32, and int64 in the model", body(), {"w": n})
        self.refused(r"shape \(2,\), and \(2, 1\) in the model", body(), {"w": w.reshape(2, 1)})

    def test_the_block_table(self):
        for count in [0, 262_145]:
            self.refused(f"{count} values, not 1 to 262144", body(block_values=count))
        self.refused("0 blocks, and the tensors need 1", body(blocks=[]))
        self.refused("1 blocks, and the tensors need 2", body(block_values=1))
        self.refused("2 blocks, and the tensors need 1", body(blocks=[bytes(8)] * 2))
        self.refused("65537 blocks, at most 65536", body([(b"w", 0, 0, [65_537])], block_values=1, blocks=[b""] * 65_537))

    def test_a_difference_to_nothing_or_to_another_version(self):
        delta = plane(b"\0\0") + plane(b"\0\0")
        self.assert_same(decode(one(DELTA, delta), HELD, 7), HELD)
        for code in [DELTA, Q8, Q4, TOPK]:
            bad = one(code, delta)
            self.refused("difference to version 7, and none is held", bad)
            self.refused("difference to version 7, and version 8 is held", bad, HELD, 8)
            self.refused("there is no base version", one(code, delta, base=b"\0"), HELD, 7)

    def test_a_difference_without_values_needs_no_base(self):
        empty = body([(b"w", 0, DELTA, [0])], [])
        self.assert_same(decode(empty), {"w": np.zeros(0, np.float32)})


class Blocks(Refusals):
    def test_shorter_or_longer_than_the_values_need(self):
        self.refused("block 0 ends too early: 8 more bytes expected, 7 found", body(blocks=[bytes(7)]))
        self.refused("block 0 is too long: 1 bytes left over", body(blocks=[bytes(9)]))
        high = plane(b"\0\0")
        self.refused("block 0 ends too early", one(BF16, high[:4]))
        self.refused("block 0 ends too early", one(BF16, high + high[:-1]))
        self.refused("block 0 is too long", one(BF16, high + high + b"\0"))

    def test_a_plane_of_an_unknown_method(self):
        self.refused("plane method 2 is unknown", one(BF16, plane(b"\0\0", 2) + plane(b"\0\0")))

    def test_a_plane_of_another_size(self):
        for content in [b"", b"\0", b"\0\0\0"]:
            message = f"a plane has {len(content)} bytes, and its values need 2"
            for coded in [plane(content), plane(zstandard.compress(content), 1)]:
                self.refused(message, one(BF16, coded + plane(b"\0\0")))
        self.refused("a plane has 8 bytes, and its values need 16", one(I64, plane(bytes(8))))

    def test_a_zstd_bomb_is_not_expanded(self):
        # Given a gigabyte of zeros that says so, and one of 64 MiB that does not
        declared = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 1 << 30) + b"\x02\0\x10\0" * 8191 + b"\x03\0\x10\0"
        silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))
        for frame in [declared, silent]:
            bad = one(BF16, plane(frame, 1) + plane(b"\0\0"))
            tracemalloc.start()
            self.refused("its values need 2|gives 2 bytes", bad)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertLess(peak, 1 << 20)

    def test_a_plane_that_is_not_one_frame(self):
        frame = zstandard.compress(b"ab")
        skippable = b"\x50\x2a\x4d\x18\2\0\0\0ab"
        for content in [b"", b"no zstd", frame[:-1], frame + zstandard.compress(b""), frame + b"\0", skippable]:
            self.refused("not a zstd frame|not one zstd frame", one(BF16, plane(content, 1) + plane(b"\0\0")))
        nothing = zstandard.compress(b"")
        counts = struct.pack("<fII", 0, 0, 0)
        sound = counts + plane(nothing, 1) + plane(b"")
        self.assert_same(decode(one(TOPK, sound), HELD, 7), HELD)
        for content in [nothing[:-1], nothing + b"\0", nothing + nothing]:
            self.refused_difference("not one zstd frame", TOPK, counts + plane(content, 1) + plane(b""))

    def test_a_frame_that_wants_a_dictionary_or_a_large_window(self):
        dictionary = b"\x28\xb5\x2f\xfd\x21\x05\x02\x11\0\0ab"  # dictionary 5, 2 bytes, one raw block
        self.refused("dictionary", one(BF16, plane(dictionary, 1) + plane(b"\0\0")))
        window = b"\x28\xb5\x2f\xfd\0\x70\x11\0\0ab"  # 16 MiB, no size, one raw block
        self.refused("a window of 16777216 bytes, at most 8388608", one(BF16, plane(window, 1) + plane(b"\0\0")))
        largest = b"\x28\xb5\x2f\xfd\0\x68\x11\0\0\0\0"  # 8 MiB
        self.assert_same(decode(one(BF16, plane(largest, 1) + plane(b"\0\0"))), {"w": np.zeros(2, np.float32)})

    def test_something_in_the_unused_half_byte(self):
        block = struct.pack("<f", 1) + plane(b"\x10")
        self.refused_difference("unused half of the last byte is 1, not 0", Q4, block, count=1)

    def test_scales_that_are_missing(self):
        one_of_two = struct.pack("<f", 1) + plane(bytes(1030))
        self.refused_difference("values need 1030", Q8, one_of_two, count=1030)
        self.refused_difference("ends too early: 4 more bytes expected, 3 found", TOPK, bytes(11))


class Entries(Refusals):
    def topk(self, message, count, gaps, codes, values=600, gap_bytes=None):
        told = struct.pack("<fII", 1, count, len(gaps) if gap_bytes is None else gap_bytes)
        self.refused_difference(message, TOPK, told + plane(gaps) + plane(codes), values)

    def test_not_as_many_as_it_says(self):
        self.topk("601 entries among 600 values", 601, bytes(601), bytes(601))
        self.topk("gaps are of 1 entries, not of 2", 2, b"\xff\0", b"\1\1")
        self.topk("gaps are of 2 entries, not of 1", 1, b"\0\0", b"\1")
        self.topk("a plane has 1 bytes, and its values need 2", 2, b"\0\0", b"\1")
        self.topk("a plane has 2 bytes, and its values need 1", 1, b"\xff\0", b"\1", gap_bytes=1)

    def test_a_gap_that_does_not_end(self):
        self.topk("gaps are of 1 entries", 1, b"\0\xff", b"\1")
        self.topk("gaps are of 0 entries, not of 1", 1, b"\xff", b"\1")
        self.topk("gaps are of 0 entries, not of 0", 0, b"\xff", b"")

    def test_more_bytes_of_gaps_than_the_block_has_room_for(self):
        self.topk("4 bytes of gaps, at most 3", 1, b"\xff\xff\xff\0", b"\1")

    def test_a_place_beyond_the_block(self):
        self.topk("beyond the 600 values", 1, b"\xff\xff\x5a", b"\1")  # 255 + 255 + 90 = 600
        self.topk("beyond the 2 values", 2, b"\1\0", b"\1\1", values=2)
        last = struct.pack("<fII", 1, 1, 3) + plane(b"\xff\xff\x59") + plane(b"\1")
        read = decode(one(TOPK, last, 600), {"w": np.ones(600, np.float32)}, 7)
        self.assertEqual((read["w"].sum(), read["w"][599]), (601, 2))


class NotFinite(Refusals):
    def test_values(self):
        for value in [math.nan, math.inf, -math.inf]:
            bad = body(blocks=[struct.pack("<ff", 1, value)])
            self.refused(r"tensor w, value 1 is (nan|-?inf), not finite", bad)

    def test_bf16(self):
        # 7f80 (infinity) rotated is ff00, 7fc0 (NaN) ff80, ff80 (minus infinity) ff01
        for low in [0x00, 0x80, 0x01]:
            self.refused("tensor w, value 1", one(BF16, plane(b"\x7f\xff") + plane(bytes([0, low]))))

    def test_differences(self):
        zigzag = 2 * (0x7F80 - 0x3F80)  # from 1.0 to infinity
        delta = plane(bytes([0, zigzag >> 8])) + plane(bytes([0, zigzag & 0xFF]))
        self.refused("tensor w, value 1", one(DELTA, delta), {"w": np.ones(2, np.float32)})

    def test_scales_and_what_they_lead_to(self):
        for scale, index in [(math.nan, 0), (math.inf, 0), (3e38, 1)]:  # times the codes 0 and 2
            block = struct.pack("<f", scale) + plane(b"\0\2")
            self.refused_difference(f"tensor w, value {index}", Q8, block)

    def test_the_tensor_and_place_are_those_of_the_value(self):
        tensors = [(b"a", 0, 0, [3]), (b"b", 0, 0, [2, 2])]
        blocks = [struct.pack("<fff", 1, 2, 3), struct.pack("<fff", 4, 5, math.inf), struct.pack("<f", 7)]
        self.refused("tensor b, value 2 is inf", body(tensors, blocks, block_values=3))


class Safetensors(Same):
    def read(self, header, values=bytes(8)):
        header = header.encode()
        return safetensors.read(struct.pack("<Q", len(header)) + header + values)

    def refused(self, message, header, values=bytes(8)):
        with self.assertRaisesRegex(WireError, message):
            self.read(header, values)

    def row(self, name, dtype, shape, begin, end):
        return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'

    def test_what_is_narrower_is_widened(self):
        header = "{" + self.row("b", "BF16", [2], 0, 4) + ',"__metadata__":{"a":"b"},' + self.row("h", "F16", [2], 4, 8)
        read = self.read(header + "}", b"\x80\x3f\x00\xc0" + b"\x00\x3c\x01\x00")
        self.assert_same(read, {"b": np.float32([1, -2]), "h": np.float32([1, 2**-24])})

    def test_gaps_overlaps_and_bytes_left_over(self):
        self.refused("a gap, or an overlap", "{" + self.row("w", "F32", [1], 4, 8) + "}")
        both = self.row("a", "F32", [1], 0, 4) + "," + self.row("b", "F32", [1], 0, 4)
        self.refused("a gap, or an overlap", "{" + both + "}", bytes(4))
        self.refused("4 bytes left over", "{" + self.row("w", "F32", [1], 0, 4) + "}")
        self.refused("ends too early", "{" + self.row("w", "F32", [3], 0, 12) + "}")

    def test_headers_that_cannot_be_read(self):
        offsets = '{"w":{"dtype":"F32","shape":[2],"data_offsets":%s}}'
        for header in ["", "[]", '{"w":1}', '{"w":{}}', "[" * 5000, offsets % "7", offsets % "[Infinity,8]"]:
            self.refused("unreadable", header)
        self.refused("is no shape", "{" + self.row("w", "F32", [-2, -1], 0, 8) + "}")
        self.refused("dtype U8 is unknown", "{" + self.row("w", "U8", [8], 0, 8) + "}")
        with self.assertRaisesRegex(WireError, "4194305 bytes, at most 4194304"):
            safetensors.read(struct.pack("<Q", (4 << 20) + 1))

    def test_nan(self):
        self.refused("NaN or infinity", "{" + self.row("w", "F32", [2], 0, 8) + "}", struct.pack("<ff", 1, math.nan))


class Writing(Same):
    def refused(self, message, tensors, encoding="f32", *args, **kwargs):
        with self.assertRaisesRegex(WireError, message):
            encode(tensors, encoding, *args, **kwargs)

    def test_what_no_reader_would_take(self):
        for value in [math.nan, math.inf, -math.inf]:
            for encoding in ["f32", "bf16", "bf16-delta", "q8"]:
                w = np.float32([[1, value]])
                self.refused("tensor w, value 1", {"w": w}, encoding, {"w": np.ones_like(w)}, 1)
        self.refused("float64, neither float32 nor int64", {"w": np.ones(2)})
        self.refused("encoding q3 is unknown", HELD, "q3")
        self.refused("9 dimensions", {"w": np.ones((1,) * 9, np.float32)})
        self.refused("1 to 1024 bytes", {"": np.ones(1, np.float32)})
        long = {f"{i:01000}": np.zeros(0, np.float32) for i in range(5000)}
        self.refused("bytes, at most 4194304", long)

    def test_a_difference_without_a_base(self):
        for encoding in ["bf16-delta", "q8", "q4", "topk"]:
            self.refused("there is no base version", HELD, encoding)
            self.refused("and none is held", HELD, encoding, None, 3)
            self.refused("tensor w is not in the model", HELD, encoding, {}, 3)

    def test_a_change_that_overflows_here_or_at_the_reader(self):
        largest = np.finfo(np.float32).max
        w, zero = np.float32([[largest, 0]]), np.zeros((1, 2), np.float32)
        for encoding in ["q8", "topk"]:
            self.refused("tensor w, value 0", {"w": w}, encoding, {"w": -w}, 3)
            self.refused("tensor w, value 0", {"w": w}, encoding, {"w": zero}, 3)  # 127 * (largest / 127)

    def test_what_is_owed_of_another_shape(self):
        w = {"w": np.ones((1, 2), np.float32)}
        self.refused("what is owed has another shape", w, "q8", w, 3, owed={"w": np.ones(2, np.float32)})
