"""Bytes of a file, read front to back: every field is bounded, and every shortage is one line that names it."""

from __future__ import annotations

from vov import VovError

_CURE = "the file is damaged; copy it again or encode it again"


class Reader:
    """Takes bytes off the front of `data`; every shortage is a VovError that names `source` and the field."""

    def __init__(self, data: bytes, source: str):
        self.data = memoryview(data)
        self.source = source
        self.position = 0

    @property
    def remaining(self) -> int:
        return len(self.data) - self.position

    def error(self, field: str, problem: str, cure: str = _CURE) -> VovError:
        """The error to raise: one line with file, field, problem and cure."""
        return VovError(f"{self.source}: {field}: {problem}; {cure}")

    def take(self, count: int, field: str) -> bytes:
        """The next `count` bytes."""
        if count > self.remaining:
            raise self.error(field, f"needs {count} bytes, {self.remaining} are left")
        self.position += count
        return bytes(self.data[self.position - count : self.position])

    def varint(self, field: str, high: int = (1 << 64) - 1, low: int = 0) -> int:
        """An unsigned integer in base 128, least significant first (LEB128), within [low, high]; <= 10 bytes."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1, field)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if shift and not byte:
                    raise self.error(field, "is not written in the shortest form")
                if not low <= value <= high:
                    raise self.error(field, f"is {value}, outside [{low}, {high}]")
                return value
        raise self.error(field, "is longer than 10 bytes")

    def zigzag(self, field: str) -> int:
        """A signed integer of at most 32 bits: 0, -1, 1, -2, … as varint 0, 1, 2, 3, …"""
        value = self.varint(field, (1 << 32) - 1)
        return value >> 1 ^ -(value & 1)

    def end(self, field: str) -> None:
        """Nothing may be left."""
        if self.remaining:
            raise self.error(field, f"has {self.remaining} bytes too many")


def varint(value: int) -> bytes:
    """`value` >= 0 as `Reader.varint` reads it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def zigzag(value: int) -> bytes:
    """A 32-bit signed integer as `Reader.zigzag` reads it."""
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)
