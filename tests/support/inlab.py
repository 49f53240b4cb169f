"""Programs that end-to-end tests run on a lab's nodes or in its pods, beside what the lab itself runs there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sitegrid.lab.clients import entered
from sitegrid.lab.lab import Lab
from tests.support.processes import running


@contextmanager
def running_in(lab: Lab, target: str, argv: Sequence[str], log: Path) -> Iterator[None]:
    """Run a program in a node or pod for as long as the block lasts; fails where it has ended before."""
    with running(lab.command(target, argv), log) as entrance:
        try:
            yield
        finally:
            assert entrance.poll() is None, log.read_text(errors="replace")[-3000:]
            os.kill(entered(entrance), signal.SIGKILL)
