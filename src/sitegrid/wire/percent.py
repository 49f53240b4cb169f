"""Percent-encoding (RFC 3986, section 2.1), as ``urllib.parse`` does it.

That module brings `ipaddress`, and both together would be 0.4 MB of an agent's memory. Called by the agent for
requests that it makes, and for paths and queries that it is sent. Held by ``tests/wire/test_percent.py``, with
``urllib.parse`` as the oracle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_UNSAFE: Final = re.compile(rb"[^-A-Za-z0-9_.~]")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def query(parameters: Mapping[str, str]) -> str:
    """Return `parameters` as the query of a target."""
    return "&".join(f"{_quote(name)}={_quote(value)}" for name, value in parameters.items())


def _quote(text: str) -> str:
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], text.encode()).decode()


def unquote(text: str) -> bytes:
    """Return what `text` stands for; what only looks like an escape stays as it is."""
    return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode())


def unquote_query(text: str) -> str:
    """Return the name or value in a query that `text` stands for. Raises UnicodeDecodeError."""
    return unquote(text.replace("+", " ")).decode()
