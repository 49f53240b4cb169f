"""``python -m benchmarks``: runs every benchmark and prints their tables."""

from __future__ import annotations

import argparse
import sys

from benchmarks.agent.__main__ import add_scale_argument
from benchmarks.agent.__main__ import run as run_agent
from benchmarks.planning.__main__ import run as run_planning
from benchmarks.report import add_output_argument, publish
from benchmarks.wire.__main__ import run as run_wire


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add_scale_argument(parser)
    add_output_argument(parser)
    args = parser.parse_args()
    return publish([run_planning(), run_wire(), run_agent(args.scale)], args.output)


if __name__ == "__main__":
    sys.exit(main())
