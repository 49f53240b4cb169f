"""How agent and controller log: one line an event, to standard error, where a kubelet collects it.

Held by ``tests/agent/test_operation.py``.
"""

from __future__ import annotations

import logging


def log_to_stderr(*, verbose: bool) -> None:
    """Log what an operator wants to know of, and with `verbose` what developers do."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    logging.getLogger("asyncio").setLevel(logging.INFO)
