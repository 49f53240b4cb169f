"""What all grids have (tkeedge.io/v1); the grids themselves are in `workloads` and `servicegrids`.

The annotations here are the API's documentation and validation: `sitegrid.api.schema` makes the CRDs from them, so
every field has a description for `kubectl explain`. Defaults are applied when a grid is read, never written into the
user's object (invariant I3), so the CRDs have no `default`.

Held by ``tests/api`` (types and schema) and ``tests/controller`` (what a real API server refuses).
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from sitegrid.wire.labels import GROUP

VERSION: Final = "v1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

# apimachinery's validation.IsQualifiedName, as regular expressions that CEL (RE2) and Python both take.
_LABEL_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
LABEL_KEY_PATTERN: Final = rf"^({_DNS_LABEL}(\.{_DNS_LABEL})*/)?{_LABEL_NAME}$"
MAX_LABEL_KEY: Final = 253 + 1 + 63

GridUniqKey = Annotated[
    str,
    Meta(
        description=(
            "The node label key that divides the cluster into units: all nodes with the same non-empty value are one "
            "unit. Cannot be changed."
        ),
        max_length=MAX_LABEL_KEY,
        extra_json_schema={
            "x-kubernetes-validations": [
                {
                    "rule": f"self.matches(r'{LABEL_KEY_PATTERN}')",
                    "message": (
                        "gridUniqKey is not a legal node label key: use letters, digits, '-', '_' and '.', beginning "
                        "and ending with a letter or digit, after an optional lower-case DNS prefix and '/', for "
                        "example 'zone' or 'topology.kubernetes.io/zone'"
                    ),
                },
                {
                    "rule": "self.indexOf('/') <= 253 && size(self) - self.indexOf('/') <= 64",
                    "message": (
                        "gridUniqKey is too long for a node label key: shorten it to at most 63 characters, "
                        "not counting an optional prefix of at most 253"
                    ),
                },
                {
                    "rule": "self == oldSelf",
                    "message": (
                        "gridUniqKey cannot be changed, since every unit of the grid would move at once: "
                        "make a second grid with the new key, then delete this one"
                    ),
                },
            ]
        },
    ),
]


def template_field(description: str) -> Meta:
    """Return the annotation of a field that takes a Kubernetes spec whole and loses nothing of it."""
    return Meta(description=description, extra_json_schema={"x-kubernetes-preserve-unknown-fields": True})
