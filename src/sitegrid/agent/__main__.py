"""The agent's own process: ``python -m sitegrid.agent OPTIONS``, with the options of `sitegrid agent` as JSON.

It begins again by itself, with the same process id and with what it has open (`Handover`), told as one more argument:
when it is to, and after a fault of its own, so that clients wait where they would be refused. A second fault within a
minute ends it: then whoever has started it waits longer and longer.

`sitegrid agent` reads its command line and becomes this process. What reads command lines (argparse, the other
subcommands) would stay in memory for as long as the agent runs: 1 MB. Held by ``tests/agent/test_run.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Final, NamedTuple

from sitegrid.agent.credentials import CredentialsError, from_kubeconfig, in_cluster
from sitegrid.agent.handover import Handover
from sitegrid.agent.reads import ReadsError
from sitegrid.agent.run import AgentBroken, ListenError, Settings, serve_until_signalled
from sitegrid.logs import log_to_stderr

_STABLE_SECONDS: Final = 60.0
"""How long an agent that began again after a fault runs until the next fault is another one."""


class _Bequest(NamedTuple):
    """What this process's former life has left to it."""

    files: str
    live: bool
    fault_at: float
    """When a fault ended it, by the clock that goes on (`time.monotonic`); negative where none has."""


def main(text: str, bequest: str = "") -> int:
    """Run an agent with these options until it is told to stop, and return the exit code."""
    options = json.loads(text)
    log_to_stderr(verbose=options.pop("verbose"))
    kubeconfig = options.pop("kubeconfig")
    account = [options.pop(name) for name in ("server", "token_file", "ca_file")]
    handover = Handover()
    fault_at = -_STABLE_SECONDS
    if bequest:
        before = _Bequest(*json.loads(bequest))
        handover.inherit(before.files)
        handover.live, fault_at = before.live, before.fault_at
    broken = False
    try:
        credentials = from_kubeconfig(kubeconfig) if kubeconfig else in_cluster(*account)
        again = asyncio.run(serve_until_signalled(Settings(credentials=credentials, **options), handover))
    except ReadsError as error:
        print(f"error: --cache {error}", file=sys.stderr)
        return 2
    except AgentBroken as error:
        now = time.monotonic()
        if now < fault_at + _STABLE_SECONDS:
            print(f"error: {error}", file=sys.stderr)
            return 1
        again = broken = True
        fault_at = now
    except (CredentialsError, ListenError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if again:
        arguments = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
        left = _Bequest(handover.bequeath(), not broken, fault_at)
        os.execv(sys.executable, [sys.executable, *arguments, text, json.dumps(left)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
