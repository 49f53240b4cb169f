from __future__ import annotations

import json

import pytest

from sitegrid.wire import protobuf
from sitegrid.wire.status import Status, quoted


def test_a_status_says_what_the_api_server_says() -> None:
    """Reason, code, details and causes stand where client-go looks for them."""
    status = Status(504, "Timeout: x", 1, (("ResourceVersionTooLarge", "Too large resource version", ""),))
    assert json.loads(status.to_json()) == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "Timeout: x",
        "reason": "Timeout",
        "details": {
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
        "code": 504,
    }


def test_a_protobuf_status_has_the_same_facts() -> None:
    """Status, message, reason and code are in the fields that meta/v1 gives them."""
    envelope = protobuf.unwrap(Status(410, "gone").to_protobuf())
    texts = {f.number: protobuf.text(envelope.raw, f) for f in protobuf.fields(envelope.raw) if f.number in (2, 3, 4)}
    numbers = {f.number: envelope.raw[f.start : f.stop] for f in protobuf.fields(envelope.raw) if f.number == 6}
    assert (envelope.api_version, envelope.kind) == ("v1", "Status")
    assert texts == {2: "Failure", 3: "gone", 4: "Expired"}
    assert protobuf.read_varint(numbers[6], 0, 2)[0] == 410


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u00e9", '"a\u00e9"'),
        ('"\\', r'"\"\\"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x1f\x7f", r'"\x00\x1f\x7f"'),
        ("\x85\xa0\u2028\U000e0001", r'"\u0085\u00a0\u2028\U000e0001"'),
    ],
)
def test_texts_are_quoted_as_go_does(text: str, shown: str) -> None:
    """Messages that repeat what a client sent are the API server's, letter by letter."""
    assert quoted(text) == shown
