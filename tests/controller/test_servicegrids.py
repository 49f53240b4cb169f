"""What a real API server takes and refuses of a ServiceGrid beyond its Service, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.cluster


def _seen(world: Any, unit: str) -> set[str]:
    """Return the addresses in a unit's slices."""
    items = world.plane.objects("endpointslices", world.namespace, f"tkeedge.io/unit={world.key}.{unit}")
    return {address for item in items for endpoint in item["endpoints"] for address in endpoint["addresses"]}


def test_a_unit_without_endpoints_falls_back(world: Any, wait_for: Any) -> None:
    """Kubernetes' own slices on one side: the neighbour's endpoints come, and go with the first own one."""
    one, two = world.node("a", "one"), world.node("b", "two")
    world.plane.apply(world.service_grid(fallback=[{"to": ["two"]}]))
    world.pod("p2", two, "10.244.2.1")
    wait_for(lambda: _seen(world, "one") == {"10.244.2.1"}, "the neighbour's endpoint", dump=world.dump)

    def status() -> Any:
        return world.plane.get("sg", "grid", world.namespace)["status"]

    wait_for(lambda: status().get("fallbacks") == [{"unit": "one", "to": "two"}], "the status", dump=world.dump)
    world.pod("p1", one, "10.244.1.1")
    wait_for(lambda: _seen(world, "one") == {"10.244.1.1"}, "the own endpoint alone", dump=world.dump)
    assert _seen(world, "two") == {"10.244.2.1"}
    wait_for(lambda: status()["fallbackUnits"] == 0, "the status", dump=world.dump)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"fallback": [{"to": []}]}, "spec.fallback[0].to"),
        ({"fallback": [{"units": {"names": ["one"]}}]}, "spec.fallback[0].to"),
        ({"fallback": [{"units": {}, "to": ["two"]}]}, "say which units are meant"),
        ({"fallback": [{"units": {"selector": {}}, "to": ["two"]}]}, "the selector is empty"),
    ],
)
def test_mistakes_are_refused(world: Any, spec: dict[str, Any], words: str) -> None:
    """The API server says which field it is."""
    result = world.plane.kubectl("apply", "-f", "-", manifest=world.service_grid(**spec), check=False)
    assert result.returncode
    assert words in result.stderr
