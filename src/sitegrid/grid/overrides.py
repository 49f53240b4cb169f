"""Makes one unit's spec: the template, the unit's values in it, and the overrides that are for the unit, in order.

Called by planning for each unit of a grid, and by ``sitegrid explain``, which prints who set what. The result for a
unit depends on nothing but the template, the overrides and that unit: an override for one unit cannot change
another's child (invariant I4). The user's objects are never changed (I3); the result shares what is the same with
them.

What sitegrid itself sets is refused in a patch, with a sentence that says what to do instead: the selector,
sitegrid's labels on pods, the pinning of pods to the unit, names. Held by ``tests/grid/test_overrides.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from sitegrid.grid.fieldchanges import changed_fields
from sitegrid.grid.fieldpath import FieldPath
from sitegrid.grid.labelselector import LabelSelector, parse_label_selector
from sitegrid.grid.patchfields import DEPLOYMENT_SPEC, STATEFUL_SET_SPEC
from sitegrid.grid.provenance import Origin, OverrideRef, Provenance
from sitegrid.grid.strategicmerge import PatchError, strategic_merge
from sitegrid.grid.substitution import SubstitutionError, substitute, unit_names
from sitegrid.wire.labels import GROUP
from sitegrid.wire.selectors import SelectorError


@dataclass(frozen=True, slots=True)
class Unit:
    """What overrides and templates can know of a unit."""

    key: str
    """The unique key."""
    value: str
    """The unit's value of it, which is its name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The labels of its NodeUnit."""
    values: Mapping[str, str] = field(default_factory=dict)
    """The values of its NodeUnit, for templates."""


class MatcherError(ValueError):
    """Nobody can tell which units are meant; `path` says where."""

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        self.message = message
        super().__init__(f"{path}: {message}")


_SAY: Final = (
    ": say which units are meant, by names or by a selector that is not empty; "
    "what is for all units belongs into the template"
)


@dataclass(frozen=True)
class UnitMatcher:
    """Which units something is for: those in `names`, and those that `selector` matches."""

    names: tuple[str, ...] = ()
    selector: Mapping[str, Any] | None = None
    """A Kubernetes LabelSelector over the units' labels."""

    def matches(self, unit: Unit) -> bool:
        """Tell whether `unit` is meant; raises `MatcherError` where nobody can tell."""
        parsed = self._parsed
        if isinstance(parsed, MatcherError):
            raise MatcherError(parsed.path, parsed.message)
        return unit.value in self._named or (parsed is not None and parsed.matches(unit.labels))

    @cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _parsed(self) -> LabelSelector | MatcherError | None:
        """The selector, or what is wrong with the matcher: found once, and not for each unit."""
        if self.selector is None:
            return None if self.names else MatcherError("units", f"it names no unit and has no selector{_SAY}")
        try:
            selector = parse_label_selector(self.selector)
        except SelectorError as error:
            return MatcherError("units.selector", str(error))
        return MatcherError("units", f"it has an empty selector{_SAY}") if selector.empty else selector


@dataclass(frozen=True, slots=True)
class Override:
    """One entry of a grid's ``overrides``."""

    units: UnitMatcher
    patch: Mapping[str, Any] | None = None
    """A strategic merge patch of the child's spec."""
    replicas: int | None = None
    """Short form of the patch ``replicas: N``."""
    name: str = ""


class OverrideError(ValueError):
    """An override cannot be applied; `override` says which, `path` where in its patch, empty for the whole."""

    def __init__(self, override: OverrideRef, message: str, path: str = "") -> None:
        self.override = override
        self.path = path
        self.message = message
        super().__init__(f"{override}: {path}: {message}" if path else f"{override}: {message}")


def effective_spec(
    template_spec: Mapping[str, Any],
    overrides: Sequence[Override],
    unit: Unit,
    type_name: str = DEPLOYMENT_SPEC,
) -> tuple[dict[str, Any], dict[str, Origin]]:
    """Return the spec of the unit's child, and who set each field in which it differs from the template.

    `type_name` is the spec's type (see `patchfields`). Raises `OverrideError` for an override of this unit that
    cannot be applied, or for one whose units cannot be told; `SubstitutionError` for an unknown name in the template.
    """
    names = unit_names(unit.value, unit.key, unit.values)
    spec: dict[str, Any] = dict(substitute(template_spec, names))
    provenance = Provenance()
    for index, override in enumerate(overrides):
        ref = OverrideRef(index, override.name)
        if not _matches(override.units, unit, ref):
            continue
        before = spec
        for patch in _patches(override, ref, type_name):
            spec = _apply(spec, patch, names, unit, ref, type_name)
        for change in changed_fields(before, spec, type_name):
            provenance.record(change, ref)
    return spec, provenance.fields()


def unknown_units(overrides: Iterable[Override], units: Collection[str]) -> dict[OverrideRef, tuple[str, ...]]:
    """Return the names in matchers that no unit of `units` has: no error, since the site may come later."""
    found: dict[OverrideRef, tuple[str, ...]] = {}
    for index, override in enumerate(overrides):
        missing = tuple(name for name in override.units.names if name not in units)
        if missing:
            found[OverrideRef(index, override.name)] = missing
    return found


def _matches(matcher: UnitMatcher, unit: Unit, ref: OverrideRef) -> bool:
    try:
        return matcher.matches(unit)
    except MatcherError as error:
        raise OverrideError(ref, error.message, error.path) from error


def _patches(override: Override, ref: OverrideRef, type_name: str) -> list[Mapping[str, Any]]:
    """Return the override's patch and its short form as patches."""
    patches: list[Mapping[str, Any]] = []
    if override.patch is not None:
        if not isinstance(override.patch, Mapping):
            raise OverrideError(ref, "it must be a map, the part of the child's spec that is to differ", "patch")
        patches.append(override.patch)
    if override.replicas is not None:
        if type_name not in (DEPLOYMENT_SPEC, STATEFUL_SET_SPEC):
            raise OverrideError(ref, "only Deployments and StatefulSets have replicas", "replicas")
        if isinstance(override.replicas, bool) or not isinstance(override.replicas, int) or override.replicas < 0:
            raise OverrideError(ref, f"{override.replicas!r} is not a whole number of at least 0", "replicas")
        if patches and "replicas" in patches[0]:
            raise OverrideError(ref, "replicas is given twice, here and in the patch: keep one of them", "replicas")
        patches.append({"replicas": override.replicas})
    return patches


def _apply(
    before: dict[str, Any],
    patch: Mapping[str, Any],
    names: Mapping[str, str],
    unit: Unit,
    ref: OverrideRef,
    type_name: str,
) -> dict[str, Any]:
    try:
        patch = substitute(patch, names)
        _refuse_other_parts(patch)
        after = strategic_merge(before, patch, type_name)
        for rule in _RULES:
            rule(before, after, patch, unit)
    except (PatchError, SubstitutionError) as error:
        raise OverrideError(ref, error.message, f"patch.{error.path}" if error.path else "patch") from error
    return after


_POD_META: Final = FieldPath().field("template").field("metadata")
_POD_SPEC: Final = FieldPath().field("template").field("spec")
_OBJECT_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_POD_NAMES: Final = ("name", "generateName", "namespace")


def _refuse_other_parts(patch: Mapping[str, Any]) -> None:
    """Refuse patches of a whole object: its name and labels are sitegrid's."""
    for name in _OBJECT_FIELDS:
        if name in patch:
            raise PatchError(
                FieldPath().field(name),
                "a patch is applied to the child's spec and cannot change the object around it, such as its name: "
                "write the spec's own fields here, without 'spec:' around them",
            )


def _refuse_selector(
    before: Mapping[str, Any], after: Mapping[str, Any], patch: Mapping[str, Any], unit: Unit
) -> None:
    if before.get("selector") != after.get("selector"):
        raise PatchError(
            FieldPath().field("selector"),
            "an override cannot change the selector: Kubernetes never lets a running workload's selector change, and "
            "sitegrid puts the unit into it; set it in the template, for all units",
        )


def _refuse_no_template(
    before: Mapping[str, Any], after: Mapping[str, Any], patch: Mapping[str, Any], unit: Unit
) -> None:
    if _map(before.get("template")).get("spec") and not _map(after.get("template")).get("spec"):
        raise PatchError(
            FieldPath().field("template"),
            "an override cannot take the pod template away; to run nothing in this unit, set replicas to 0",
        )


def _refuse_pod_metadata(
    before: Mapping[str, Any], after: Mapping[str, Any], patch: Mapping[str, Any], unit: Unit
) -> None:
    metadata = _map(_map(patch.get("template")).get("metadata"))
    for name in _POD_NAMES:
        if name in metadata:
            raise PatchError(
                _POD_META.field(name), f"an override cannot set {name}: Kubernetes names pods after their controller"
            )
    for label in _map(metadata.get("labels")):
        if label.startswith(f"{GROUP}/"):
            raise PatchError(
                _POD_META.field("labels").field(label),
                "an override cannot change this label: sitegrid tells the units' pods apart by it; use a label of "
                "your own",
            )


def _refuse_pinning(
    before: Mapping[str, Any], after: Mapping[str, Any], patch: Mapping[str, Any], unit: Unit
) -> None:
    node_selector = _map(_map(_map(patch.get("template")).get("spec")).get("nodeSelector"))
    if unit.key in node_selector and node_selector[unit.key] != unit.value:
        raise PatchError(
            _POD_SPEC.field("nodeSelector").field(unit.key),
            f"an override cannot change where the unit's pods run: sitegrid pins them to {unit.key}={unit.value}; "
            f"leave {unit.key} out",
        )


def _refuse_unknown_containers(
    before: Mapping[str, Any], after: Mapping[str, Any], patch: Mapping[str, Any], unit: Unit
) -> None:
    """Refuse a new container without image: nearly always the name of an existing one with a slip in it."""
    for kind in ("containers", "initContainers"):
        old = _named_items(before, kind)
        for name, container in _named_items(after, kind).items():
            if name not in old and not container.get("image"):
                has = ", ".join(map(str, old)) or "none"
                raise PatchError(
                    _POD_SPEC.field(kind).item(name),
                    f"the template has no such container (it has: {has}); correct the name, or give an image to "
                    "add one",
                )


_Rule = Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], Unit], None]
_RULES: Final[tuple[_Rule, ...]] = (
    _refuse_selector,
    _refuse_no_template,
    _refuse_pod_metadata,
    _refuse_pinning,
    _refuse_unknown_containers,
)


def _named_items(spec: Mapping[str, Any], kind: str) -> dict[object, Mapping[str, Any]]:
    items = _map(_map(spec.get("template")).get("spec")).get(kind)
    return {item.get("name"): item for item in items if isinstance(item, dict)} if isinstance(items, list) else {}


def _map(value: object) -> Mapping[str, Any]:
    """Return `value` where it is a map, else an empty one: absent and null mean the same in a manifest."""
    return value if isinstance(value, Mapping) else {}
