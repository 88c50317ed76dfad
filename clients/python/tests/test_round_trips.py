"""What this encoder writes, this decoder reads: every encoding, dtype and shape."""

import unittest

import numpy as np
from fedlearn_wire import ENCODINGS, bits, decode, encode, read_header, safetensors
from fedlearn_wire.header import Code
from same import Same

LOSSY = ["q8", "q4", "topk"]
SMALLEST = np.float32(2**-149)
LARGEST = np.finfo(np.float32).max


def model(seed, spread=1.0):
    """Scalars, vectors, matrices; empty ones; integers; 3,100 values in all."""
    random = np.random.default_rng(seed)

    def floats(*shape):
        return (random.standard_normal(shape) * spread).astype(np.float32)

    return {
        "conv.weight": floats(4, 3, 5, 5),
        "counts": random.integers(-(2**63), 2**63, 5),
        "empty": floats(0),
        "empty.counts": np.zeros((2, 0), np.int64),
        "empty.weight": floats(3, 0, 2),
        "fc.bias": floats(7),
        "fc.weight": floats(2, 1_400),
        "scalar": floats(),
        "steps": np.array(9),
        "ä": floats(1, 1),
    }


def near(base, by):
    """Every float a little further."""
    other = model(99, by)
    return {name: a + other[name] if a.dtype == np.float32 else a + 1 for name, a in base.items()}


def rounded(tensors):
    def one(array):
        flat = np.ascontiguousarray(array).reshape(-1)
        return bits.widened(bits.rounded(flat)).reshape(array.shape) if array.dtype == np.float32 else array

    return {name: one(array) for name, array in tensors.items()}


class Exact(Same):
    def test_f32_and_integers_come_back_bit_for_bit(self):
        special = np.float32([0.0, -0.0, SMALLEST, -SMALLEST, 1e-39, LARGEST, -LARGEST, 1.0])
        sent = model(1) | {"special": special, "limits": np.array([-(2**63), 2**63 - 1])}
        for block_values in [1, 7, 1_000, 262_144]:
            body, owed = encode(sent, "f32", block_values=block_values)
            self.assertEqual(owed, {})
            self.assert_same(decode(body), dict(sorted(sent.items())))

    def test_a_model_in_bf16_comes_back_as_that_rounds_it(self):
        special = np.float32([-0.0, SMALLEST, -1e-39, 3.38e38, -3.38e38, 1 + 2**-8, 1 + 3 * 2**-8, 0.0])
        sent = model(2) | {"special": special}
        for block_values in [13, 262_144]:
            body, owed = encode(sent, "bf16", block_values=block_values)
            self.assertEqual(owed, {})
            self.assert_same(decode(body), dict(sorted(rounded(sent).items())))

    def test_an_update_in_bf16_is_rounded_to_either_side(self):
        base = model(2)
        sent = near(base, 0.01)
        for block_values in [13, 262_144]:
            for encoding in ["bf16", "bf16-delta"]:
                body, owed = encode(sent, encoding, base, 3, block_values=block_values)
                self.assertEqual(owed, {})
                read, received = decode(body, base, 3), rounded(base)
                for name in sent:
                    if sent[name].dtype == np.float32:
                        change = sent[name] - base[name].astype(np.float64)
                        step = np.maximum(np.abs(sent[name]), np.abs(base[name])) / 127 + 1e-40
                        self.assertTrue((np.abs(read[name] - received[name] - change) <= step).all(), name)
                    else:
                        self.assert_same({name: read[name]}, {name: sent[name]})

    def test_what_is_sent_back_as_received_is_exact_whatever_it_is(self):
        special = np.float32([-0.0, SMALLEST, -1e-39, LARGEST, -LARGEST, -1e9, 1 + 2**-8, 0.1])
        exact = model(2) | {"special": special}
        for base in [exact, rounded(exact)]:
            for encoding in ["bf16", "bf16-delta"]:
                for seed in range(5):
                    read = decode(encode(base, encoding, base, 3, seed=seed)[0], base, 3)
                    self.assert_same(read, dict(sorted(rounded(exact).items())))

    def test_small_steps_arrive_in_every_encoding_that_sends_all_values_though_each_client_takes_part_once(self):
        # Given 100,000 weights, and 20 rounds in each of which another client adds 0.001 to what it was sent
        first = np.linspace(0.5, 1.5, 100_000, dtype=np.float32).reshape(100, 1_000)
        for encoding in ["f32", "bf16", "bf16-delta", "q8", "q4"]:
            exact = first.astype(np.float64)
            for seed in range(20):
                held = {"w": exact.astype(np.float32)}
                received = held if encoding == "f32" else rounded(held)
                body, _ = encode({"w": received["w"] + np.float32(0.001)}, encoding, received, 3, seed=seed)
                exact += decode(body, received, 3)["w"].astype(np.float64) - received["w"]
            # Then they have moved by 0.02 on average
            self.assertAlmostEqual(float((exact - first).mean()), 0.02, delta=0.0004, msg=encoding)

    def test_bf16_rounds_to_nearest_and_ties_to_even(self):
        sent = np.float32([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 1 + 2**-9])
        read = decode(encode({"w": sent}, "bf16")[0])["w"]
        self.assertEqual(read.tolist(), [1, 1 + 2**-6, 1 + 2**-7, 1])

    def test_what_is_beyond_bf16_becomes_its_largest(self):
        sent, largest = np.float32([LARGEST, -LARGEST]), 3.3895313892515355e38
        self.assertEqual(decode(encode({"w": sent}, "bf16")[0])["w"].tolist(), [largest, -largest])

    def test_safetensors_come_back_bit_for_bit(self):
        sent = dict(sorted((model(3) | {"zero": np.float32([-0.0, SMALLEST])}).items()))
        self.assert_same(safetensors.read(safetensors.write(sent)), sent)

    def test_no_tensors_at_all(self):
        for encoding in ENCODINGS:
            self.assertEqual(decode(encode({}, encoding, {}, 1)[0], {}, 1), {})

    def test_bodies_do_not_share_memory_with_what_is_read(self):
        body = bytearray(encode({"w": np.float32([1, 2])}, "f32")[0])
        read = decode(body)
        body[-8:] = bytes(8)
        read["w"][0] += 1
        self.assertEqual(read["w"].tolist(), [2, 2])


class Lossy(Same):
    def test_nothing_is_lost_that_is_not_owed(self):
        base, update = model(4), near(model(4), 0.01)
        for encoding in LOSSY:
            for block_values in [97, 262_144]:
                with self.subTest(encoding, block_values=block_values):
                    body, owed = encode(update, encoding, base, 3, topk_fraction=0.1, block_values=block_values)
                    read = decode(body, base, 3)
                    lossy = [t.name for t in read_header(body).tensors if t.code not in (Code.I64, Code.BF16_DELTA)]
                    self.assertEqual(lossy, ["conv.weight", "empty.weight", "fc.weight", "ä"])
                    self.assertEqual(sorted(owed), sorted(lossy))
                    for name in lossy:
                        np.testing.assert_allclose(read[name] + owed[name], update[name], atol=1e-6)
                    for name in update.keys() - set(lossy):  # as bf16-delta, or integers
                        np.testing.assert_allclose(read[name], update[name], rtol=1 / 32)

    def test_errors_are_below_a_step_of_each_groups_own_scale(self):
        base = {"w": np.zeros((1, 2_048), np.float32)}
        changes = np.random.default_rng(5).standard_normal((1, 2_048)).astype(np.float32)
        changes[:, 1_024:] *= 1e-3
        for encoding, most in [("q8", 127), ("q4", 7)]:
            body, owed = encode({"w": changes}, encoding, base, 3)
            for group in [slice(0, 1_024), slice(1_024, 2_048)]:
                step = np.abs(changes[:, group]).max() / most
                self.assertLess(np.abs(owed["w"][:, group]).max(), step * 1.001)
                self.assertGreater(np.abs(owed["w"][:, group]).max(), step / 2)

    def test_rounding_is_right_on_average_and_decided_by_the_seed(self):
        # Given one value that fixes the scale at 1, and many of a third
        base = {"w": np.zeros((1, 1_000), np.float32)}
        update = {"w": np.full((1, 1_000), 1 / 3, np.float32)}
        update["w"][0, 0] = 7
        body = lambda seed: encode(update, "q4", base, 3, seed=seed)[0]
        # Then the mean of 20 seeds is a third, within five times the standard error
        mean = np.mean([decode(body(seed), base, 3)["w"][0, 1:].mean(dtype=float) for seed in range(20)])
        self.assertAlmostEqual(mean, 1 / 3, delta=0.017)
        self.assertEqual(body(1), body(1))
        self.assertNotEqual(body(1), body(2))

    def test_what_is_owed_is_paid_by_later_updates(self):
        # Given a client whose training always moves every weight by the same, from a base that follows what arrives
        step = np.linspace(-0.6, 0.5, 12, dtype=np.float32).reshape(3, 4)
        for encoding in LOSSY:
            base, owed = {"w": np.zeros((3, 4), np.float32)}, None
            for seed in range(200):
                update = {"w": base["w"] + step}
                body, owed = encode(update, encoding, base, 3, owed, seed, topk_fraction=0.25, block_values=5)
                base = decode(body, base, 3)
            # Then each has moved by the sum, but for what is still owed
            np.testing.assert_allclose(base["w"] + owed["w"], 200 * step, atol=1e-2)
            self.assertLess(np.abs(owed["w"]).max(), 6)

    def test_topk_sends_the_largest_changes_of_each_tensor_and_no_others(self):
        base = {"a": np.ones((1, 2_000), np.float32), "b": np.ones((20, 100), np.float32)}
        update = {name: array.copy() for name, array in base.items()}
        far = [0, 255, 256, 511, 1_022, 1_999]  # gaps of 0, 254, 0, 254, 510, 976
        update["a"][0, far] += 127
        update["b"] += np.float32(0.5)  # small beside those of `a`
        update["b"].flat[976:] += np.float32(1.5)  # the largest 1,024: a thousandth would be fewer
        body, owed = encode(update, "topk", base, 3, topk_fraction=0.003)
        read = decode(body, base, 3)
        self.assertEqual(np.flatnonzero(read["a"] != 1).tolist(), far)
        self.assertEqual(np.flatnonzero(read["b"] != 1).tolist(), list(range(976, 2_000)))
        self.assert_same({"a": read["a"]}, {"a": update["a"]})
        self.assertEqual(owed["b"][0, 0], 0.5)

    def test_what_has_not_changed_is_told_exactly(self):
        base = rounded(model(6))
        for encoding in LOSSY:
            body, owed = encode(base, encoding, base, 3)
            self.assert_same(decode(body, base, 3), dict(sorted(base.items())))
            self.assertFalse(any(array.any() for array in owed.values()))

    def test_changes_so_small_that_their_scale_is_zero_stay_owed(self):
        base = {"w": np.zeros((1, 2), np.float32)}
        update = {"w": np.float32([[SMALLEST, -SMALLEST]])}
        for encoding in LOSSY:
            body, owed = encode(update, encoding, base, 3, topk_fraction=1)
            self.assert_same(decode(body, base, 3), base)
            self.assert_same(owed, update)

    def test_a_change_beyond_the_largest_code_is_sent_as_that_and_the_rest_owed(self):
        # 190 / 127 smallest steps are rounded to a scale of one, of which 190 would be wanted; likewise 10 / 7
        for encoding, steps, most in [("q8", 190, 127), ("topk", -190, -127), ("q4", 10, 7)]:
            base = {"w": np.zeros((1, 1), np.float32)}
            body, owed = encode({"w": np.float32([[steps * SMALLEST]])}, encoding, base, 3, topk_fraction=1)
            self.assert_same(decode(body, base, 3), {"w": np.float32([[most * SMALLEST]])})
            self.assert_same(owed, {"w": np.float32([[(steps - most) * SMALLEST]])})

    def test_topk_has_no_entry_for_what_has_not_changed(self):
        base = {"w": np.ones((1, 9), np.float32)}
        body, _ = encode(base, "topk", base, 3, topk_fraction=1)
        nothing = bytes(5)  # a raw plane of no bytes
        self.assertEqual(body[-22:], bytes(12) + nothing + nothing)  # scale, entries and bytes of gaps: 0

    def test_a_zero_code_adds_a_positive_zero(self):
        # -0.0 + 0 * s is 0.0 in the encodings that have a code for every value, and topk leaves the base as it is
        base = {"w": np.float32([[-0.0, 0.0, 1.0]])}
        update = {"w": np.float32([[-0.0, 0.0, 2.0]])}
        for encoding, sign in [("q8", False), ("q4", False), ("topk", True)]:
            read = decode(encode(update, encoding, base, 3)[0], base, 3)["w"]
            self.assertEqual(np.signbit(read).tolist(), [[sign, False, False]])


if __name__ == "__main__":
    unittest.main()
