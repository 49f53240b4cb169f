"""Names of StatefulSetGrid pods that are the same in every site: ``<grid>-<ordinal>.<service>``.

A pod of the child ``<child>-<ordinal>`` has that name in DNS, with the site in it. Behind a headless ServiceGrid it
also gets the grid's own name, so that one configuration fits all sites (SuperEdge's form). Such an alias is one more
endpoint with the pod's address, in slices of its own that have no ports: consumers that distribute requests find
nothing in them, SRV records name each pod once, and DNS servers answer A and AAAA of the name (CoreDNS takes a slice
without ports for names alone, plugin/kubernetes). Called by `sitegrid.grid.slices`; held by
``tests/grid/test_aliases.py`` and, with a real CoreDNS, ``tests/agent/test_headless.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

import msgspec

from sitegrid.grid.observed import Endpoint


class GridSet(NamedTuple):
    """A StatefulSet that a grid made."""

    grid: str
    unit: str
    """The unit id that it carries."""


FindSet = Callable[[str], GridSet | None]
"""Returns the StatefulSet with a name, in the Service's namespace; None where there is none, or no grid made it."""

_ORDINAL: Final = re.compile(r"(.+)-(0|[1-9][0-9]*)")
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""What the API server wants of an endpoint's hostname (discovery/v1)."""


def alias_of(endpoint: Endpoint, unit: str, find: FindSet, taken: Collection[str]) -> Endpoint | None:
    """Return the endpoint under its alias; None where it has none, or where a real host name in `taken` is that.

    `unit` is the id of the endpoint's unit. An endpoint has a hostname only if the Service is its pod's subdomain.
    """
    pod = endpoint.target_ref
    if not endpoint.hostname or pod is None or pod.kind != "Pod":
        return None
    named = _ORDINAL.fullmatch(pod.name)
    made = find(named[1]) if named is not None else None
    if named is None or made is None or made.unit != unit:
        return None
    name = f"{made.grid}-{named[2]}"
    if name in taken or _DNS_LABEL.fullmatch(name) is None:
        return None
    return msgspec.structs.replace(endpoint, hostname=name)
