"""``python -m benchmarks.wire``: runs the benchmark and prints its table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Final

from benchmarks.report import Figure, Report, add_output_argument, fewer, publish
from benchmarks.timing import best
from benchmarks.wire.sample import UNIT_ID, as_json, as_protobuf
from sitegrid.wire.codec import Item
from sitegrid.wire.frames import length_frame
from sitegrid.wire.protobuf import wrap, write_event
from sitegrid.wire.protobufcodec import PROTOBUF
from sitegrid.wire.resources import ENDPOINTSLICES
from sitegrid.wire.rewrite import unit_slice_labels

SLICES: Final = 2000


def run(slices: int = SLICES) -> Report:
    """Return the report for a list, and as many watch events, of `slices` slices."""
    json_items = [as_json(number) for number in range(slices)]
    items = [Item(f"default/{number}", 1000 + number, as_protobuf(number)) for number in range(slices)]
    json_list = json.dumps({"kind": "EndpointSliceList", "metadata": {}, "items": json_items}).encode()
    proto_list = b"".join(PROTOBUF.render_list(ENDPOINTSLICES, items, 9000)[1])
    json_events = [json.dumps({"type": "MODIFIED", "object": item}).encode() for item in json_items]
    events = [write_event("MODIFIED", wrap("discovery.k8s.io/v1", "EndpointSlice", item.raw)) for item in items]
    stream = b"".join(length_frame(event) for event in events)
    if len(PROTOBUF.item_list(proto_list).items) != slices:
        raise AssertionError("the list was not read as it was written")
    figures = [
        Figure("size of the list", "B", len(json_list), len(proto_list)),
        Figure(
            "read the list, per slice",
            "s",
            *_each(slices, lambda: json.loads(json_list), lambda: _read(proto_list)),
            fewer(1),
        ),
        Figure(
            "read, relabel and write a watch event",
            "s",
            *_each(slices, lambda: _relabel_json(json_events), lambda: _relabel(stream)),
            fewer(1),
        ),
    ]
    return Report(f"Wire: {slices} EndpointSlices in protobuf against json.loads", "json", figures)


def _each(slices: int, reference: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Return what both take for one of `slices`."""
    return best(reference) / slices, best(ours) / slices


def _read(body: bytes) -> None:
    PROTOBUF.item_list(body)


def _relabel(stream: bytes) -> None:
    """Do what the agent does with an event of its own unit."""
    for frame in PROTOBUF.frames().feed(stream):
        item = PROTOBUF.change(frame).item
        assert item is not None
        labels = unit_slice_labels(PROTOBUF.labels(item), {UNIT_ID})
        assert labels is not None
        PROTOBUF.render_event(ENDPOINTSLICES, "MODIFIED", PROTOBUF.with_labels(item, labels))


def _relabel_json(events: list[bytes]) -> None:
    for data in events:
        event = json.loads(data)
        meta = event["object"]["metadata"]
        meta["labels"] = unit_slice_labels(meta["labels"], {UNIT_ID})
        json.dumps(event)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    add_output_argument(parser)
    return publish([run()], parser.parse_args().output)


if __name__ == "__main__":
    sys.exit(main())
