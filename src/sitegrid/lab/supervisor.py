"""The process that is a lab: ``python -m sitegrid.lab.supervisor``, started by `Lab.up` and by nothing else.

It is process 1 of fresh mount, network and process namespaces (and a user namespace when not started by root). All
that the lab consists of lives in them, so however this process ends, the kernel removes every process, namespace,
link and mount. It boots the cluster, telling `Lab.up` on its standard output as JSON lines what it does; then it
answers the control socket until told to end. A lab that is attached to the process that started it ends with that.
Held by ``tests/lab/test_crash.py`` and ``tests/lab/test_ended_run.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

from sitegrid.lab import control, network
from sitegrid.lab.addresses import API_SERVER_PORT
from sitegrid.lab.cluster import Cluster
from sitegrid.lab.config import LabConfig
from sitegrid.lab.errors import LabError
from sitegrid.lab.gateway import Gateway
from sitegrid.lab.layout import Layout
from sitegrid.lab.processes import open_log, trim_logs
from sitegrid.lab.verbs import Verbs

_LOG_CHECK: Final = 10.0
"""Seconds between two looks at the size of logs."""


def main() -> int:
    """Run the supervisor."""
    parser = argparse.ArgumentParser(prog="sitegrid.lab.supervisor")
    parser.add_argument("--root", type=Path, required=True, help="the lab's state directory")
    parser.add_argument("--listener", type=int, required=True, help="descriptor of the host's listening socket")
    parser.add_argument("--lock", type=int, required=True, help="descriptor that holds the lab's lock")
    parser.add_argument("--attached", action="store_true", help="end when nobody reads standard output any more")
    args = parser.parse_args()
    # Not for the lab's processes.
    os.set_inheritable(args.listener, False)
    os.set_inheritable(args.lock, False)
    return asyncio.run(_run(Layout(args.root), socket.socket(fileno=args.listener), attached=args.attached))


async def _run(layout: Layout, listener: socket.socket, *, attached: bool) -> int:
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    # The pipe to `Lab.up` becomes readable only when its other end is closed: nobody waits for this lab any more.
    pipe = os.dup(sys.stdout.fileno())
    loop.add_reader(pipe, end.set)
    boot = asyncio.create_task(_boot(layout, listener, end))
    ended = asyncio.create_task(end.wait())
    await asyncio.wait([boot, ended], return_when=asyncio.FIRST_COMPLETED)
    if not boot.done():
        _say({"error": "it was told to end before it was ready"})
        return 1
    try:
        boot.result()
    except LabError as error:
        _say({"error": str(error)})
        return 1
    if not attached:
        loop.remove_reader(pipe)
    _say({"ready": True})
    _redirect_output(layout)
    while not end.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(end.wait(), _LOG_CHECK)
        with contextlib.suppress(OSError):
            trim_logs(layout.logs)
    return 0


async def _boot(layout: Layout, listener: socket.socket, end: asyncio.Event) -> None:
    config = LabConfig.read(layout.config)
    cluster = Cluster(config, layout)
    verbs = Verbs(cluster, end.set)
    network.create_cloud()
    await Gateway(listener, API_SERVER_PORT).start()
    await control.serve(layout.control, verbs.answer)
    await cluster.boot(lambda text: _say({"progress": text}))
    verbs.booted = True


def _say(message: dict[str, Any]) -> None:
    """Tell `Lab.up`, if it still listens."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(message), flush=True)


def _redirect_output(layout: Layout) -> None:
    with open_log(layout.logs / "supervisor.log") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


if __name__ == "__main__":
    sys.exit(main())
