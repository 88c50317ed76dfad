"""A place in some bytes that are read from the front."""

from .limits import require


class Cursor:
    """Reads `data` (bytes-like) piece by piece; `what` is its name in messages."""

    def __init__(self, data, what):
        self.data, self.at, self.what = memoryview(data), 0, what

    def take(self, count):
        """The next `count` bytes, not copied."""
        left = len(self.data) - self.at
        require(count <= left, f"{self.what} ends too early: {count} more bytes expected, {left} found")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self):
        return self.take(1)[0]

    def u32(self):
        return int.from_bytes(self.take(4), "little")

    def varint(self, bits):
        """Unsigned LEB128: seven bits a byte, lowest first, the top bit set on all but the last."""
        value = 0
        for shift in range(0, bits, 7):
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                require(value < 1 << bits, f"{self.what}: a number has more than {bits} bits")
                return value
        require(False, f"{self.what}: a number has more than {bits} bits")

    def end(self):
        """Refuses bytes that are left over."""
        left = len(self.data) - self.at
        require(left == 0, f"{self.what} is too long: {left} bytes left over")


def varint(value):
    """An unsigned LEB128, as bytes."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))
