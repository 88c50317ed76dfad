"""Comparing tensors by their bits: `==` takes -0.0 for 0.0."""

import unittest

import numpy as np


class Same(unittest.TestCase):
    def assert_same(self, found, want):
        self.assertEqual(list(found), list(want))
        for name in want:
            a, b = np.asarray(found[name]), np.asarray(want[name])
            self.assertEqual((a.dtype, a.shape), (b.dtype, b.shape), name)
            bits = np.int64 if a.dtype == np.int64 else np.int32
            np.testing.assert_array_equal(a.reshape(-1).view(bits), b.reshape(-1).view(bits), name)
