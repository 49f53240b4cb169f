"""Which units something is for: by name, or by a selector over the units' labels.

Used by the grids' `units` and `overrides`. CEL refuses a matcher that names nothing, since that is nearly always a
slip, and "all units" is what leaving it out means. Held by ``tests/controller/test_overrides.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from sitegrid.api.nodeunits import LabelSelector

MAX_NAMES: Final = 5000

_NOT_EMPTY: Final = (
    "((has(self.matchLabels) && size(self.matchLabels) > 0) || "
    "(has(self.matchExpressions) && size(self.matchExpressions) > 0))"
)


def _rules(*rules: tuple[str, str]) -> dict[str, Any]:
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


class UnitMatcher(Struct, rename="camel", frozen=True, omit_defaults=True):
    """Units, by name or by label."""

    names: Annotated[
        list[Annotated[str, Meta(description="The unit: the value of the unique key.", max_length=63)]],
        Meta(description="The units by name. A name that no unit has (yet) is no error.", max_length=MAX_NAMES),
    ] = []
    selector: Annotated[
        LabelSelector | None,
        Meta(
            description=(
                "Also all units whose labels match: the labels of the unit's NodeUnit, and always "
                "<gridUniqKey>=<unit>."
            ),
            extra_json_schema=_rules(
                (_NOT_EMPTY, "the selector is empty and would match every unit: leave it out, or say what to match")
            ),
        ),
    ] = None


MATCHER_RULES: Final = _rules(
    (
        "(has(self.names) && size(self.names) > 0) || has(self.selector)",
        "say which units are meant: by names, or by a selector over their labels",
    )
)
"""For every field whose type is `UnitMatcher`."""
