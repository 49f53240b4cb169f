"""The sites file: which nodes a lab has and how they are labelled.

`lab up --sites FILE` and the tests read it; `lab node add` makes single nodes by the same rules. Everything that the
API server or its NodeRestriction admission would refuse later, out of the user's sight, is refused here with a
sentence that names the place. Held by ``tests/lab/test_sites.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from sitegrid.kube.config import not_yaml
from sitegrid.lab.errors import LabError
from sitegrid.wire.labels import MAX_LABEL_VALUE, is_label_value

MAX_NODES: Final = 1000
"""Four /16 networks of /24 pod networks (`addresses.py`), less what is reserved, rounded."""

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUALIFIED_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_KUBELET_LABELS: Final = frozenset(
    {
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
"""Labels of Kubernetes' own that a kubelet may give its Node (k8s.io/kubelet/pkg/apis/well_known_labels.go).

``kubernetes.io/hostname`` is left out on purpose: the lab's kubelet sets it to the node's name.
"""
_KUBELET_PREFIXES: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")


class SitesError(LabError):
    """A sites file, node name or label that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a lab. With `agent` false it is a stock node: kube-proxy and CoreDNS ask the API server itself."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    agent: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SitesError(
                f"node name {self.name!r} is no DNS label (lower-case letters, digits and '-', at most 63 characters)"
            )
        for key, value in self.labels.items():
            _check_label(self.name, key, value)


@dataclass(frozen=True, slots=True)
class Sites:
    """The nodes that a lab starts with, in the order of the file."""

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if len(self.nodes) > MAX_NODES:
            raise SitesError(f"{len(self.nodes)} nodes: a lab has room for {MAX_NODES}")
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise SitesError(f"node {node.name!r} is listed twice")
            seen.add(node.name)


def load_sites(path: Path | str) -> Sites:
    """Read the sites file at `path`; raises `SitesError` naming file, place and reason."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SitesError(f"cannot read the sites file {path}: {reason}") from error
    try:
        return parse_sites(text)
    except SitesError as error:
        raise SitesError(f"sites file {path}: {error}") from error


def default_sites() -> Sites:
    """Return the nodes of the article's example."""
    return parse_sites(resources.files("sitegrid.lab").joinpath("default-sites.yaml").read_text(encoding="utf-8"))


def parse_sites(text: str) -> Sites:
    """Return the sites that the YAML `text` describes; raises `SitesError`."""
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise SitesError(not_yaml(error)) from error
    top = _mapping(document, "the file", {"nodes"})
    nodes = top.get("nodes")
    if not isinstance(nodes, list) or not nodes:
        raise SitesError("'nodes' must be a list with at least one node")
    return Sites(tuple(_node(entry, position) for position, entry in enumerate(nodes, 1)))


def _node(entry: Any, position: int) -> Node:
    place = f"node {position}"
    fields = _mapping(entry, place, {"name", "labels", "agent"})
    name = fields.get("name")
    if not isinstance(name, str):
        raise SitesError(f"{place}: 'name' must be a string, not {_describe(name)}")
    labels = fields.get("labels") or {}
    if not isinstance(labels, dict):
        raise SitesError(f"{place} ({name}): 'labels' must be a mapping, not {_describe(labels)}")
    agent = fields.get("agent", True)
    if not isinstance(agent, bool):
        raise SitesError(f"{place} ({name}): 'agent' must be true or false, not {_describe(agent)}")
    return Node(name, labels, agent)


def _mapping(value: Any, place: str, allowed: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SitesError(f"{place} must be a mapping with {_list(allowed)}, not {_describe(value)}")
    for key in value:
        if key not in allowed:
            raise SitesError(f"{place}: unknown field {key!r} (known: {_list(allowed)})")
    return value


def _check_label(node: str, key: Any, value: Any) -> None:
    place = f"node {node!r}, label {key!r}"
    if not isinstance(key, str):
        raise SitesError(f"{place}: the key must be a string; put it in quotes")
    if not isinstance(value, str):
        raise SitesError(f"{place}: the value must be a string, not {_describe(value)}; put it in quotes")
    prefix, slash, name = key.rpartition("/")
    if not _QUALIFIED_NAME.fullmatch(name) or (slash and not _PREFIX.fullmatch(prefix)):
        raise SitesError(f"{place}: not a legal label key")
    if value and not is_label_value(value):
        raise SitesError(f"{place}: {value!r} is not a legal label value (at most {MAX_LABEL_VALUE} of A-Za-z0-9-_.)")
    if _is_kubernetes_domain(prefix) and key not in _KUBELET_LABELS and not _is_kubelet_domain(prefix):
        raise SitesError(f"{place}: Kubernetes does not let a kubelet set this label on its own Node")


def _is_kubernetes_domain(prefix: str) -> bool:
    return any(prefix == domain or prefix.endswith("." + domain) for domain in ("kubernetes.io", "k8s.io"))


def _is_kubelet_domain(prefix: str) -> bool:
    return any(prefix == domain or prefix.endswith("." + domain) for domain in _KUBELET_PREFIXES)


def _describe(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "a string", type(None): "nothing"}
    return kinds.get(type(value), repr(value))


def _list(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping; YAML forbids it, PyYAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
