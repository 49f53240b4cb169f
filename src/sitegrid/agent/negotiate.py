"""Content negotiation: which representation a client of a view gets.

The agent can represent objects exactly as JSON and as protobuf. A client that offers one of them besides others (a
Table, as kubectl does) gets the best of those; a client that accepts nothing else is 406, as by the API server for
media types that it does not know. Held by ``tests/agent/test_negotiate.py``.
"""

from __future__ import annotations

from typing import Final

from sitegrid.wire.codec import JSON, PROTOBUF, Codec

NOT_ACCEPTABLE: Final = "only the following media types are accepted: application/json, " + PROTOBUF.media_type

_CODECS: Final[dict[str, Codec]] = {
    JSON.media_type: JSON,
    PROTOBUF.media_type: PROTOBUF,
    "application/*": JSON,
    "*/*": JSON,
}
_HARMLESS: Final = frozenset({"q", "charset", "stream"})


def negotiate(accept: str) -> Codec | None:
    """Return the representation to answer in, for the value of an Accept header; None for 406."""
    if not accept.strip():
        return JSON
    best: Codec | None = None
    best_quality = 0.0
    for clause in accept.split(","):
        media_type, *parameters = (part.strip() for part in clause.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        codec = _CODECS.get(media_type.lower())
        if codec is None or values.keys() - _HARMLESS:
            continue
        quality = _quality(values.get("q", "1"))
        if quality > best_quality:
            best, best_quality = codec, quality
    return best


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
