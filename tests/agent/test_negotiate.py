from __future__ import annotations

import pytest

from sitegrid.agent.negotiate import negotiate
from sitegrid.wire.codec import Codec
from sitegrid.wire.jsoncodec import JSON
from sitegrid.wire.protobufcodec import PROTOBUF

PB = "application/vnd.kubernetes.protobuf"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
METADATA = f"{PB};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@pytest.mark.parametrize(
    ("accept", "codec"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        (f"{PB}, */*", PROTOBUF),
        (f"{PB};stream=watch", PROTOBUF),
        (f"{PB},application/json", PROTOBUF),
        (f"application/json;q=0.5,{PB}", PROTOBUF),
        (f"{TABLE},application/json", JSON),
        (f"{METADATA},application/json;q=0.9", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json;q=0", JSON),
        (f"*/*, {PB}", PROTOBUF),
        (f"{PB};q=0.1, */*", JSON),
        ("application/yaml, application/json;q=0.1", JSON),
    ],
)
def test_the_best_exact_representation_is_chosen(accept: str, codec: Codec) -> None:
    """Clients get JSON or protobuf, by their preference, wherever they offer either."""
    assert negotiate(accept) is codec


@pytest.mark.parametrize(
    "accept",
    [TABLE, METADATA, "application/cbor", "application/yaml", "text/html", "application/*",
     "application/json;as=Table", f"{TABLE},application/cbor", "application/json," * 65],
)  # fmt: skip
def test_what_cannot_be_represented_is_not_acceptable(accept: str) -> None:
    """A table or metadata of a view is refused, never passed through."""
    assert negotiate(accept) is None
