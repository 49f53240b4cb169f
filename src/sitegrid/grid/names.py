"""Names children: readable where Kubernetes allows it, otherwise slug and hash.

A child's name depends on nothing but its grid's name and its unit's value, so that it never changes when other units
come and go, and two units of a grid never share one. Legal label values such as ``NodeUnit1`` or ``a_b`` are no legal
object names; a peer stops there. Held by ``tests/grid/test_names.py``.
"""

from __future__ import annotations

import re
from typing import Final

from sitegrid.wire.labels import hashed_name, looks_hashed

MAX_NAME: Final = 253
"""Longest object name, in characters (apimachinery's validation.DNS1123SubdomainMaxLength)."""

_DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def is_dns_subdomain(text: str) -> bool:
    """Tell whether `text` is a legal object name (apimachinery's IsDNS1123Subdomain)."""
    return len(text) <= MAX_NAME and _DNS_SUBDOMAIN.fullmatch(text) is not None


def child_name(grid: str, value: str, *, max_length: int, dots: bool = True) -> str:
    """Return the name of the child of `grid` for the unit `value`, in at most `max_length` characters.

    ``<grid>-<value>`` where that is legal; else, where it has dots and may not (`dots`), and where it could be
    mistaken for a hashed name, slug and hash.
    """
    plain = f"{grid}-{value}"
    legal = len(plain) <= max_length and is_dns_subdomain(plain) and (dots or "." not in plain)
    if legal and not looks_hashed(plain):
        return plain
    return hashed_name(plain, grid, value, max_length=max_length)
