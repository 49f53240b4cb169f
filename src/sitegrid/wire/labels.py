"""The labels that controller and agent agree on, and the safe spelling of units as label values.

Everything that crosses the wire between the two halves of sitegrid is named here and nowhere else. The controller
writes these labels, the agent selects by them; a change here is a change of protocol.

Invariant: two different units never have the same unit id (else one would see the other's endpoints).
Held by ``tests/wire/test_labels.py``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

GROUP: Final = "tkeedge.io"

GRID: Final = f"{GROUP}/grid"
"""On every child: the grid's name (made safe by `label_value`)."""
GRID_UNIQ_KEY: Final = f"{GROUP}/grid-uniq-key"
"""On a grid's Service and on unit slices: the unique key (made safe). It closes what has it; so workload children,
whose labels people copy, have it not."""
SITES: Final = f"{GROUP}/sites"
"""On a grid's Service, which has no selector: the name of the Service that has it, and so all units' endpoints."""
SITES_OF: Final = f"{GROUP}/sites-of"
"""On that other Service and (copied by Kubernetes) its EndpointSlices: the name of the grid's Service. Its
`GRID_UNIQ_KEY` is empty, which no unique key is: so it is no plain Service, and of no node's keys either, and no
agent is ever sent it."""
UNIT: Final = f"{GROUP}/unit"
"""On workload children, their pods, and unit slices: the unit id."""
UNIT_SERVICE_NAME: Final = f"{GROUP}/service-name"
"""On unit slices, in place of `SERVICE_NAME`, so that no other consumer sees them."""

HEADLESS_SERVICE: Final = f"{GROUP}/headless"
"""On unit slices of a Service that is itself headless (clusterIP None): their `HEADLESS` label is real and stays."""

ALIASES: Final = f"{GROUP}/aliases"
"""On unit slices that hold pods of StatefulSetGrids once more, under the names that are the same in every site."""

SERVICE_PATCH: Final = f"{GROUP}/service-patch"
"""Label and annotation of a unit slice that is none: it holds, in the annotation, what the unit's Service has
different (`sitegrid.wire.servicepatch`), and never an endpoint. It comes with the unit's slices, and so to its nodes
alone; clients are not shown it."""

SERVICE_NAME: Final = "kubernetes.io/service-name"
SERVICE_PROXY_NAME: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS: Final = "service.kubernetes.io/headless"
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
ENDPOINTSLICE_CONTROLLER: Final = "endpointslice-controller.k8s.io"
"""Value of `MANAGED_BY` on the slices that Kubernetes makes for a Service with a selector."""

SITEGRID: Final = "sitegrid"
"""Value of `SERVICE_PROXY_NAME` on grid Services and of `MANAGED_BY` on unit slices."""

MAX_LABEL_VALUE: Final = 63
"""Longest label value, in characters (apimachinery's validation.LabelValueMaxLength)."""
HASH_LENGTH: Final = 10

_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_HASHED: Final = re.compile(rf"-[0-9a-f]{{{HASH_LENGTH}}}\Z")


def is_label_value(text: str) -> bool:
    """Tell whether `text` is a legal, non-empty label value."""
    return len(text) <= MAX_LABEL_VALUE and _LABEL_VALUE.fullmatch(text) is not None


def short_hash(*parts: str) -> str:
    """Return the hexadecimal digest that tells `parts` from every other tuple of strings."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:HASH_LENGTH]


def slug(text: str) -> str:
    """Return `text` in lower case with every run of other characters than ``a-z0-9`` as one hyphen, trimmed."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def hashed_name(text: str, *parts: str, max_length: int) -> str:
    """Return ``<slug of text>-<hash of parts>`` in at most `max_length` characters."""
    stem = slug(text)[: max_length - HASH_LENGTH - 1].rstrip("-")
    return f"{stem}-{short_hash(*parts)}" if stem else short_hash(*parts)


def looks_hashed(text: str) -> bool:
    """Tell whether `text` could be mistaken for a result of `hashed_name`; such originals are hashed as well."""
    return _HASHED.search(text) is not None


def label_value(text: str) -> str:
    """Return `text` where it is a legal label value, else a distinct legal one: slug and hash."""
    if is_label_value(text) and not looks_hashed(text):
        return text
    return hashed_name(text, text, max_length=MAX_LABEL_VALUE)


def unit_id(key: str, value: str) -> str:
    """Return the label value that names the unit of all nodes with label `key` = `value`.

    ``<key>.<value>`` where that is legal and says where the key ends, which is when the key has no dot; else slug
    and hash without any dot. So ``a.b``=``c`` and ``a``=``b.c`` are told apart, and no hashed id equals a plain one.
    """
    plain = f"{key}.{value}"
    if "." not in key and is_label_value(plain):
        return plain
    return hashed_name(f"{key}-{value}", key, value, max_length=MAX_LABEL_VALUE)
