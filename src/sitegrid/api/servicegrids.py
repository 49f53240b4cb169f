"""ServiceGrid as users write it (tkeedge.io/v1).

As for all grids, `sitegrid.api.schema` makes the CRD from these types, and defaults are applied when an object is
read. Held by ``tests/api`` and ``tests/controller``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from msgspec import Meta, Struct, field

from sitegrid.api.grids import GridUniqKey, template_field
from sitegrid.api.matchers import MATCHER_RULES, UnitMatcher
from sitegrid.api.meta import ObjectMeta
from sitegrid.api.status import STATUS, ServiceGridStatus
from sitegrid.wire.labels import GROUP

SERVICE_NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""A DNS-1035 label, which is what Kubernetes wants of a Service's name (apimachinery's IsDNS1035Label)."""
MAX_SERVICE_NAME: Final = 63
SERVICE_SUFFIX: Final = "-svc"


MAX_FALLBACKS: Final = 1000
MAX_NEIGHBOURS: Final = 16


class Fallback(Struct, rename="camel", frozen=True, omit_defaults=True, kw_only=True):
    """Whose endpoints some units use while they have none of their own that is ready."""

    units: Annotated[
        UnitMatcher | None,
        Meta(description="The units it is for; all where not given.", extra_json_schema=MATCHER_RULES),
    ] = None
    to: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    description="A unit by name; $(unit.values.NAME) is replaced by a value of the falling unit.",
                    min_length=1,
                    max_length=253,
                ),
            ]
        ],
        Meta(
            description="The units to use, of which the first that has a ready endpoint counts.",
            min_length=1,
            max_length=MAX_NEIGHBOURS,
            extra_json_schema={"x-kubernetes-list-type": "atomic"},
        ),
    ]


MAX_OVERRIDES: Final = 1000
MAX_EXTERNAL_IPS: Final = 64
MAX_ANNOTATIONS: Final = 64
MAX_NODE_PORTS: Final = 64


class ServicePatch(Struct, rename="camel", frozen=True, omit_defaults=True, kw_only=True):
    """What the Service of a unit may have different: nothing else, since it is one Service for all units."""

    external_ips: Annotated[
        Annotated[
            list[Annotated[str, Meta(description="An address of the site.", max_length=253)]],
            Meta(max_length=MAX_EXTERNAL_IPS, extra_json_schema={"x-kubernetes-list-type": "atomic"}),
        ]
        | None,
        Meta(
            description=(
                "Addresses outside the cluster that the unit's nodes take requests for, instead of the template's; "
                "none where empty."
            )
        ),
    ] = field(name="externalIPs", default=None)
    annotations: Annotated[
        dict[str, Annotated[str, Meta(description="The value.", max_length=4096)]],
        Meta(
            description="Annotations of the Service as the unit's nodes see it, besides those that it has.",
            extra_json_schema={"maxProperties": MAX_ANNOTATIONS},
        ),
    ] = field(default_factory=dict)
    node_ports: Annotated[
        dict[str, Annotated[int, Meta(description="The node port.", ge=1, le=65535)]],
        Meta(
            description="Node ports on the unit's nodes, by the name or number of the Service's port.",
            extra_json_schema={"maxProperties": MAX_NODE_PORTS},
        ),
    ] = field(default_factory=dict)


class ServiceOverride(Struct, rename="camel", frozen=True, omit_defaults=True, kw_only=True):
    """What is different in some units."""

    name: Annotated[
        str, Meta(description="What the override is called in messages and by `sitegrid explain`.", max_length=253)
    ] = ""
    units: Annotated[UnitMatcher, Meta(description="The units it is for.", extra_json_schema=MATCHER_RULES)]
    patch: Annotated[
        ServicePatch,
        Meta(
            description="What is different there. $(unit.name), $(unit.key) and $(unit.values.NAME) are replaced.",
            extra_json_schema={
                "x-kubernetes-validations": [
                    {
                        "rule": "has(self.externalIPs) || has(self.annotations) || has(self.nodePorts)",
                        "message": (
                            "a ServiceGrid's patch may have externalIPs, annotations and nodePorts, and has none of "
                            "them: all else is the same for all units and belongs into the template"
                        ),
                    }
                ]
            },
        ),
    ]


class ServiceGridSpec(Struct, rename="camel", frozen=True):
    """The Service that all units share, each unit seeing only its own endpoints."""

    grid_uniq_key: GridUniqKey
    template: Annotated[
        dict[str, Any],
        template_field("The spec of the Service, as Kubernetes defines it (core/v1 ServiceSpec)."),
    ]
    service_name: Annotated[
        str,
        Meta(
            description="The name of the Service; <name of the ServiceGrid>-svc where not given.",
            max_length=MAX_SERVICE_NAME,
            extra_json_schema={
                "x-kubernetes-validations": [
                    {
                        "rule": f"self.matches(r'{SERVICE_NAME_PATTERN}')",
                        "message": (
                            "serviceName is not a legal Service name: use at most 63 lower-case letters, digits and "
                            "'-', beginning with a letter and ending with a letter or digit"
                        ),
                    }
                ]
            },
        ),
    ] = ""
    overrides: Annotated[
        list[ServiceOverride],
        Meta(
            description="What is different in some units, in this order: of several for a unit the last one wins.",
            max_length=MAX_OVERRIDES,
            extra_json_schema={"x-kubernetes-list-type": "atomic"},
        ),
    ] = field(default_factory=list)
    fallback: Annotated[
        list[Fallback],
        Meta(
            description=(
                "Exceptions to closure: which units use endpoints of another unit, and only while they have no ready "
                "one of their own. Of several that are for a unit the last one counts. None where not given."
            ),
            max_length=MAX_FALLBACKS,
            extra_json_schema={"x-kubernetes-list-type": "atomic"},
        ),
    ] = field(default_factory=list)


class ServiceGrid(Struct, rename="camel"):
    """ServiceGrid makes one Service for all units, closed: a node reaches only the endpoints of its own unit."""

    KIND: ClassVar[str] = "ServiceGrid"
    GROUP: ClassVar[str] = GROUP

    metadata: ObjectMeta
    spec: Annotated[
        ServiceGridSpec, Meta(description="The Service, and the key that closes it; written by the user.")
    ]
    status: Annotated[ServiceGridStatus, STATUS] = field(default_factory=ServiceGridStatus)

    def wanted_service_name(self) -> str:
        """Return the name of the Service that this grid is to make."""
        return self.spec.service_name or self.metadata.name + SERVICE_SUFFIX
