"""``python -m benchmarks.agent``: runs the benchmark and prints its table."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time

from benchmarks.agent.figures import report
from benchmarks.agent.measure import Measurement
from benchmarks.agent.stage import Stage, StageError
from benchmarks.agent.world import Scale
from benchmarks.report import Report, add_output_argument, publish
from sitegrid.kube.errors import ApiError, Unreachable
from sitegrid.lab.errors import LabError
from sitegrid.lab.interruption import interrupt_on


async def measure(scale: Scale, name: str = "bench-agent") -> Report:
    """Return the report of one run on a lab called `name`; raises `StageError`, LabError, ApiError, Unreachable."""
    began = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", file=sys.stderr, flush=True)

    async with Stage(name, scale, progress) as stage:
        measurement = Measurement(stage, progress)
        straight = await measurement.straight()
        behind = await measurement.behind()
        progress("done")
    return report(scale, straight, behind)


def run(scale: Scale) -> Report:
    """Run `measure` so that Ctrl-C and SIGTERM end it, and its lab, at once wherever it is."""
    # asyncio's own handler would wait for calls that block; one that it does not know makes it leave signals alone.
    interrupt_on(signal.SIGINT, signal.SIGTERM)
    try:
        return asyncio.run(measure(scale))
    except (ApiError, LabError, StageError, Unreachable) as error:
        raise SystemExit(f"benchmarks.agent: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent", description=__doc__)
    add_scale_argument(parser)
    add_output_argument(parser)
    args = parser.parse_args()
    return publish([run(args.scale)], args.output)


def add_scale_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--scale``."""
    parser.add_argument(
        "--scale",
        type=_scale,
        default=Scale(),
        metavar="UNITSxSERVICES",
        help="size of the cluster (default: 1000x20, the only size whose wanted figures are judged)",
    )


def _scale(text: str) -> Scale:
    try:
        return Scale.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 50x5: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
