"""Content negotiation: which representation a client of a view gets, chosen as the API server chooses.

That is go-restful's look at the media types, then munnerz/goautoneg's order of preference and apiserver's
pkg/endpoints/handlers/negotiation with all their oddities: `q=0` refuses nothing, `application/*` alone is 406. The
agent can represent objects exactly as JSON and as protobuf; of a client's preferences those that need another
representation (YAML, a Table as kubectl asks for) are skipped, and a client that accepts nothing else is 406. Held by
``tests/agent/test_negotiate.py`` and, against the real API server, ``tests/agent/test_conformance.py``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sitegrid.wire.codec import Codec
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.protobufcodec import PROTOBUF

NOT_ACCEPTABLE: Final = "only the following media types are accepted: application/json, " + PROTOBUF.media_type

_CODECS: Final[dict[str, Codec]] = {
    JSON.media_type: JSON,
    PROTOBUF.media_type: PROTOBUF,
    "application/*": JSON,
    "*/*": JSON,
}
_PRODUCED: Final = frozenset({"*/*", JSON.media_type, "application/yaml", PROTOBUF.media_type})
_OTHER_FORMS: Final = frozenset({"as", "g", "v", "sv"})
_MAX_CLAUSES: Final = 64
"""Sorting takes the square of them."""


class _Clause(NamedTuple):
    type: str
    subtype: str
    quality: float
    parameters: dict[str, str]

    def before(self, other: _Clause) -> bool:
        """Tell what goautoneg's `Less` tells; it is no order, so that the way of sorting counts."""
        return (
            self.quality > other.quality
            or (self.type != "*" and other.type == "*")
            or (self.subtype != "*" and other.subtype == "*")
        )

    def codec(self) -> Codec | None:
        """Return the representation that the clause allows, None where the agent does not have it."""
        if self.parameters.keys() & _OTHER_FORMS or self.parameters.get("stream", "watch") != "watch":
            return None
        return _CODECS.get(f"{self.type}/{self.subtype}")


def negotiate(accept: str) -> Codec | None:
    """Return the representation to answer in, for the value of an Accept header; None for 406."""
    if not accept:
        return JSON
    texts = accept.split(",")
    if len(texts) > _MAX_CLAUSES or all(text.partition(";")[0].strip(" ") not in _PRODUCED for text in texts):
        return None
    clauses: list[_Clause] = []
    for clause in filter(None, map(_parse, texts)):
        place = len(clauses)
        while place and clause.before(clauses[place - 1]):
            place -= 1
        clauses.insert(place, clause)
    return next(filter(None, (clause.codec() for clause in clauses)), None)


def _parse(text: str) -> _Clause | None:
    """Return one clause; None for what is no media type. A parameter without a value, or with two, does not count."""
    media_type, *rest = text.strip(" ").split(";")
    kind, _, subtype = (part.strip(" ") for part in media_type.partition("/"))
    if not subtype and kind == "*":
        subtype = "*"
    if not subtype or "/" in subtype:
        return None
    pairs = [part.split("=") for part in rest]
    values = {pair[0].strip(" "): pair[1].strip(" ") for pair in pairs if len(pair) == 2 and pair[1]}
    return _Clause(kind, subtype, _quality(values.pop("q", "1")), values)


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
