from __future__ import annotations

import itertools
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.api.meta import ObjectMeta
from sitegrid.kube.errors import DecodeError
from sitegrid.kube.watch import WatchDecoder

Object = dict[str, Any]


class Slice(msgspec.Struct, frozen=True, gc=False):
    """A partial type that is strict about its own fields."""

    metadata: ObjectMeta
    endpoints: list[dict[str, Any]]


def line(kind: str, version: int, name: str = "a", **more: Any) -> bytes:
    """Return one watch event as the API server frames it."""
    obj = {"metadata": {"name": name, "uid": "u", "resourceVersion": str(version)}, **more}
    return json.dumps({"type": kind, "object": obj}, ensure_ascii=False).encode() + b"\n"


@given(
    texts=st.lists(st.text(max_size=30), max_size=8),
    cuts=st.lists(st.integers(min_value=0, max_value=2000), max_size=30),
)
def test_chunk_borders_do_not_matter(texts: list[str], cuts: list[int]) -> None:
    """However the body is cut, the same events come out in the same order."""
    body = b"".join(line("ADDED", number, data=text) for number, text in enumerate(texts))
    decoder = WatchDecoder(dict[str, Any])
    borders = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(borders)]
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    assert [(event.object or {})["data"] for event in events] == texts
    assert [event.resource_version for event in events] == [str(number) for number in range(len(texts))]


def test_a_large_object_in_small_chunks_is_not_copied_for_each() -> None:
    """One more chunk of a long line allocates about that chunk, not the line anew: the cost stays linear."""
    size, step = 8_000_000, 4096
    body = line("ADDED", 1, data="x" * size)
    chunks = [body[start : start + step] for start in range(0, len(body), step)]
    decoder = WatchDecoder(dict[str, Any])
    for chunk in chunks[:-2]:
        assert decoder.feed(chunk) == []
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        assert decoder.feed(chunks[-2]) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < size / 10
    assert [len((event.object or {})["data"]) for event in decoder.feed(chunks[-1])] == [size]


def test_a_bookmark_is_not_decoded_as_an_object() -> None:
    """A bookmark's object has null where the type wants a list; it still tells how far the stream is."""
    decoder = WatchDecoder(Slice)
    (event,) = decoder.feed(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"},"endpoints":null}}\n')
    assert (event.type, event.object, event.resource_version, event.initial_events_end) == (
        "BOOKMARK",
        None,
        "7",
        False,
    )


def test_the_end_of_the_initial_events_is_seen() -> None:
    """The annotation on a bookmark marks the end of a streaming list."""
    decoder = WatchDecoder(Slice)
    (event,) = decoder.feed(
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":'
        b'{"k8s.io/initial-events-end":"true"}},"endpoints":null}}\n'
    )
    assert event.initial_events_end


def test_a_typed_object_is_decoded_partially() -> None:
    """Only the fields of the type are kept."""
    (event,) = WatchDecoder(Slice).feed(line("MODIFIED", 9, "s", endpoints=[{"nodeName": "n"}], ports=[1]))
    assert event.object == Slice(ObjectMeta(name="s", uid="u", resource_version="9"), [{"nodeName": "n"}])


def test_an_error_event_ends_the_stream_after_the_events_before_it() -> None:
    """What came before the error counts, what comes after does not."""
    decoder = WatchDecoder(dict[str, Any])
    status = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
    events = decoder.feed(line("ADDED", 1) + status + line("ADDED", 2))
    assert [event.resource_version for event in events] == ["1"]
    assert decoder.error is not None
    assert decoder.error.gone


@pytest.mark.parametrize(
    "body",
    [
        b"not json\n",
        b'{"type":"NEWS","object":{}}\n',
        b'{"type":"ADDED"}\n',
        b'{"type":"ADDED","object":{"metadata":{"uid":"nameless"}}}\n',
        b'{"type":"BOOKMARK","object":{}}\n',
        b"<html>\n",
    ],
)
def test_what_is_no_watch_event_is_an_error(body: bytes) -> None:
    """Nothing that cannot be understood is skipped (I6)."""
    with pytest.raises(DecodeError):
        WatchDecoder(dict[str, Any]).feed(body)


def test_an_object_of_another_type_is_an_error() -> None:
    """An object that does not fit the partial type is named, not skipped."""
    with pytest.raises(DecodeError, match="endpoints"):
        WatchDecoder(Slice).feed(line("ADDED", 1, endpoints=None))


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never ends its line cannot take all memory."""
    monkeypatch.setattr("sitegrid.kube.watch.MAX_LINE", 1000)
    decoder = WatchDecoder(dict[str, Any])
    decoder.feed(b"x" * 600)
    with pytest.raises(DecodeError, match="longer than"):
        decoder.feed(b"x" * 600)
