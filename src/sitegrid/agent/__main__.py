"""The agent's own process: ``python -m sitegrid.agent OPTIONS``, with the options of `sitegrid agent` as JSON.

`sitegrid agent` reads its command line and becomes this process. What reads command lines (argparse, the other
subcommands) would stay in memory for as long as the agent runs: 1 MB. Held by ``tests/agent/test_run.py``.
"""

from __future__ import annotations

import asyncio
import json
import sys

from sitegrid.agent.credentials import CredentialsError, from_kubeconfig, in_cluster
from sitegrid.agent.reads import ReadsError
from sitegrid.agent.run import AgentBroken, ListenError, Settings, serve_until_signalled
from sitegrid.logs import log_to_stderr


def main(text: str) -> int:
    """Run an agent with these options until it is told to stop, and return the exit code."""
    options = json.loads(text)
    log_to_stderr(verbose=options.pop("verbose"))
    kubeconfig = options.pop("kubeconfig")
    account = [options.pop(name) for name in ("server", "token_file", "ca_file")]
    try:
        credentials = from_kubeconfig(kubeconfig) if kubeconfig else in_cluster(*account)
        asyncio.run(serve_until_signalled(Settings(credentials=credentials, **options)))
    except ReadsError as error:
        print(f"error: --cache {error}", file=sys.stderr)
        return 2
    except (AgentBroken, CredentialsError, ListenError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
