"""A small protobuf encoder of its own, so that the scanner is not tested with itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

# A loaded machine is slow now and then; a test that measures time finds that and nothing else.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def _varint(value: int) -> bytes:
    out = b""
    while True:
        low, value = value & 0x7F, value >> 7
        if not value:
            return out + bytes([low])
        out += bytes([low | 0x80])


class Encoder:
    """Encodes protobuf messages field by field."""

    @staticmethod
    def blob(number: int, value: bytes | str) -> bytes:
        """Return a length-delimited field."""
        data = value.encode() if isinstance(value, str) else value
        return _varint(number * 8 + 2) + _varint(len(data)) + data

    @staticmethod
    def number(number: int, value: int) -> bytes:
        """Return a varint field."""
        return _varint(number * 8) + _varint(value)

    def meta(
        self, name: str, namespace: str = "", rv: str = "1", labels: dict[str, str] | None = None, extra: bytes = b""
    ) -> bytes:
        """Return an ObjectMeta message, labels in the middle as the API server has them."""
        out = self.blob(1, name) + self.blob(2, "") + self.blob(3, namespace) + self.blob(6, rv) + self.number(7, 3)
        for key, value in (labels or {}).items():
            out += self.blob(11, self.blob(1, key) + self.blob(2, value))
        return out + extra + self.blob(17, self.blob(1, "manager"))

    def slice(
        self,
        name: str,
        namespace: str = "ns",
        rv: str = "1",
        labels: dict[str, str] | None = None,
        address: str = "10.0.0.1",
    ) -> bytes:
        """Return an EndpointSlice message with one endpoint."""
        endpoint = self.blob(1, address) + self.blob(2, self.number(1, 1))
        return self.blob(1, self.meta(name, namespace, rv, labels)) + self.blob(2, endpoint) + self.blob(4, "IPv4")

    def body(self, kind: str, message: bytes, api_version: str = "discovery.k8s.io/v1") -> bytes:
        """Return a message in its envelope."""
        types = self.blob(1, api_version) + self.blob(2, kind)
        return b"k8s\0" + self.blob(1, types) + self.blob(2, message) + self.blob(3, "") + self.blob(4, "")

    def event(self, event_type: str, body: bytes) -> bytes:
        """Return a WatchEvent without its length."""
        return self.blob(1, event_type) + self.blob(2, self.blob(1, body))


@pytest.fixture(scope="session")
def encode() -> Encoder:
    """Give the encoder."""
    return Encoder()


@pytest.fixture(scope="session")
def every_truncation() -> Callable[[bytes], list[bytes]]:
    """Give a function that returns all proper beginnings of some bytes."""
    return lambda data: [data[:length] for length in range(len(data))]
