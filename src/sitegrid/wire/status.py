"""`Status`, the answer of the API server when there is no object to give, in JSON and protobuf.

The agent speaks as the API server does, so that client-go reacts as to the API server: reasons, causes and
retryAfterSeconds decide whether it relists, retries or gives up (apimachinery pkg/api/errors). Held by
``tests/wire/test_status.py``.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from sitegrid.wire import protobuf

_REASONS: Final = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    410: "Expired",
    413: "RequestEntityTooLarge",
    422: "Invalid",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Status(NamedTuple):
    """A failure: HTTP `code`, `message`, `retry_after` in seconds, `causes` as (reason, message, field)."""

    code: int
    message: str
    retry_after: int = 0
    causes: tuple[tuple[str, str, str], ...] = ()
    name: str = ""
    group: str = ""
    kind: str = ""

    @property
    def reason(self) -> str:
        """Return the machine-readable reason that belongs to `code`."""
        return _REASONS.get(self.code, "")

    def to_json(self) -> bytes:
        """Return the object as JSON."""
        details: dict[str, Any] = {k: v for k in ("name", "group", "kind") if (v := getattr(self, k))}
        if self.causes:
            details["causes"] = [
                {k: v for k, v in zip(("reason", "message", "field"), cause, strict=True) if v}
                for cause in self.causes
            ]
        if self.retry_after:
            details["retryAfterSeconds"] = self.retry_after
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if details:
            body["details"] = details
        body["code"] = self.code
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    def to_protobuf(self) -> bytes:
        """Return the object as a `k8s\\0` body (meta/v1 generated.proto: Status, StatusDetails, StatusCause)."""
        empty = b"".join(protobuf.write_bytes(number, b"") for number in (1, 2, 3))
        out = [protobuf.write_bytes(1, empty)]
        for number, value in ((2, "Failure"), (3, self.message), (4, self.reason)):
            out.append(protobuf.write_bytes(number, value.encode()))
        if self.name or self.group or self.kind or self.causes or self.retry_after:
            texts = enumerate((self.name, self.group, self.kind), start=1)
            details = b"".join(protobuf.write_bytes(number, value.encode()) for number, value in texts)
            for cause in self.causes:
                parts = (protobuf.write_bytes(number, value.encode()) for number, value in enumerate(cause, start=1))
                details += protobuf.write_bytes(4, b"".join(parts))
            details += protobuf.write_int(5, self.retry_after) + protobuf.write_bytes(6, b"")
            out.append(protobuf.write_bytes(5, details))
        out.append(protobuf.write_int(6, self.code))
        return protobuf.wrap("v1", "Status", b"".join(out))


_ESCAPES: Final = {char: f"\\{letter}" for char, letter in zip('"\\\a\b\f\n\r\t\v', '"\\abfnrtv', strict=True)}


def quoted(text: str) -> str:
    """Return `text` as the API server shows it: Go's strconv.Quote."""
    return f'"{"".join(map(_shown, text))}"'


def _shown(char: str) -> str:
    if char in _ESCAPES or char.isprintable():
        return _ESCAPES.get(char, char)
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
