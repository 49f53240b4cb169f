from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.wire.labels import (
    GRID,
    GRID_UNIQ_KEY,
    HEADLESS,
    HEADLESS_SERVICE,
    MANAGED_BY,
    SERVICE_NAME,
    SERVICE_PROXY_NAME,
    SITEGRID,
    SITES_OF,
    UNIT,
    UNIT_SERVICE_NAME,
)
from sitegrid.wire.rewrite import grid_service_labels, of_grid, unit_slice_labels

UNIT_SLICE = {
    UNIT: "zone.u1",
    UNIT_SERVICE_NAME: "web",
    GRID_UNIQ_KEY: "zone",
    SERVICE_PROXY_NAME: SITEGRID,
    HEADLESS: "",
    MANAGED_BY: SITEGRID,
    "team": "a",
}
NAMES = [*UNIT_SLICE, SERVICE_NAME, HEADLESS_SERVICE]


def test_an_own_unit_slice_looks_like_the_services_own() -> None:
    """It has the Service's name back, and nothing that would make kube-proxy or CoreDNS ignore it."""
    seen = unit_slice_labels(UNIT_SLICE, {"zone.u1"})
    assert seen == {SERVICE_NAME: "web", MANAGED_BY: SITEGRID, "team": "a"}


def test_a_headless_services_slice_stays_headless() -> None:
    """The headless label is taken off only where the controller put it on."""
    seen = unit_slice_labels({**UNIT_SLICE, HEADLESS_SERVICE: ""}, {"zone.u1"})
    assert seen == {SERVICE_NAME: "web", MANAGED_BY: SITEGRID, "team": "a", HEADLESS: ""}


@given(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["", "zone.u1", "zone.u2", SITEGRID, "web"])),
    st.sets(st.sampled_from(["zone.u1", "zone.u2", "b.c"])),
)
def test_only_own_units_are_ever_shown(labels: dict[str, str], units: set[str]) -> None:
    """Whatever is missing or wrong on a grid's slice: it is shown for an own unit or not at all (I1)."""
    if unit_slice_labels(labels, units) is not None:
        assert labels[UNIT] in units
        assert labels[MANAGED_BY] == SITEGRID


@pytest.mark.parametrize("missing", [UNIT, UNIT_SERVICE_NAME, GRID_UNIQ_KEY, MANAGED_BY])
def test_a_slice_without_a_needed_label_is_not_shown(missing: str) -> None:
    """A half-labelled slice is nobody's."""
    labels = {key: value for key, value in UNIT_SLICE.items() if key != missing}
    assert unit_slice_labels(labels, {"zone.u1"}) is None


def test_a_node_in_no_unit_is_shown_none() -> None:
    """No units, no slices."""
    assert unit_slice_labels(UNIT_SLICE, set()) is None


@pytest.mark.parametrize("labels", [{UNIT_SERVICE_NAME: ""}, {GRID_UNIQ_KEY: ""}, {MANAGED_BY: SITEGRID}])
def test_labels_that_only_sitegrid_writes_make_an_object_a_grids(labels: dict[str, str]) -> None:
    """An object that carries one of these is never shown as it is, whatever else it carries."""
    assert of_grid(labels)
    assert of_grid({**labels, "app": "web", UNIT: "zone.u1"})


@pytest.mark.parametrize("missing", [*UNIT_SLICE])
def test_a_unit_slice_that_lost_a_label_is_still_a_grids(missing: str) -> None:
    """Nobody shows it as it is by taking one label off (I1)."""
    assert of_grid({key: value for key, value in UNIT_SLICE.items() if key != missing})


def test_a_childs_labels_make_no_object_a_grids() -> None:
    """`kubectl expose` copies them to a Service, Kubernetes to its slices, and the pods' to nothing."""
    assert not of_grid({GRID: "web", UNIT: "zone.u1", MANAGED_BY: "endpointslice-controller.k8s.io"})


def test_a_grid_service_is_served_by_kube_proxy_again() -> None:
    """The proxy name that keeps stock kube-proxies away is taken off, all else stays."""
    labels = {GRID_UNIQ_KEY: "zone", SERVICE_PROXY_NAME: SITEGRID, "team": "a"}
    assert grid_service_labels(labels, {"zone"}) == {GRID_UNIQ_KEY: "zone", "team": "a"}


def test_a_grid_service_is_only_where_its_key_is() -> None:
    """On a node that is in no unit of the Service's key it does not exist."""
    assert grid_service_labels({GRID_UNIQ_KEY: "zone"}, {"rack"}) is None


def test_another_proxys_service_is_left_to_it() -> None:
    """A proxy name that is not ours stays."""
    labels = {GRID_UNIQ_KEY: "zone", SERVICE_PROXY_NAME: "cilium"}
    assert grid_service_labels(labels, {"zone"}) == labels


def test_a_service_of_no_grid_is_not_ours() -> None:
    """Without the key the Service is not rewritten, even under our proxy name."""
    assert grid_service_labels({SERVICE_PROXY_NAME: SITEGRID}, {"zone", ""}) is None


@given(st.sets(st.sampled_from(["", "zone", "b"])), st.sampled_from(["", "zone"]))
def test_the_service_with_all_endpoints_is_shown_to_nobody(keys: set[str], key: str) -> None:
    """Whatever its unique key is said to be, and whatever keys a node has (I2)."""
    labels = {GRID_UNIQ_KEY: key, SERVICE_PROXY_NAME: SITEGRID, SITES_OF: "web"}
    assert grid_service_labels(labels, keys) is None
