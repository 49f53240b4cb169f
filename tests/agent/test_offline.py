"""An agent without its API server: what it kept, it serves; what it did not keep, it refuses at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sitegrid.agent.disk import Disk, _name
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.node import node_source_key
from sitegrid.agent.snapshot import Directory, Document, Record

PROXY = {"User-Agent": "kube-proxy/v1.36.3 (linux/amd64)", "Authorization": "Bearer proxys-token"}
OTHER = {**PROXY, "Authorization": "Bearer others-token"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at once, and write at once: the pauses are not what these tests are about."""
    monkeypatch.setattr("sitegrid.agent.source._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("sitegrid.agent.source._LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("sitegrid.agent.upstream._FIRST_PROBE", 0.01)
    monkeypatch.setattr("sitegrid.agent.upstream._LONGEST_PROBE", 0.01)
    monkeypatch.setattr("sitegrid.agent.wan._JITTER", 0.0)


@pytest.fixture
async def kept(api: Any, objects: Any, start_agent: Any) -> None:
    """An agent has served slices and kube-proxy's node, has ended, and the API server is gone."""
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    api.put(objects.slices, objects.unit("zone.u2", "10.2.0.1"))
    async with start_agent() as site:
        assert await site.names(objects.slices) == ["a", "web-zone.u1"]
        assert (await site.request("GET", objects.nodes, PROXY))[0] == 200
    await api.stop()


def names(body: bytes) -> list[str]:
    """Return the names in a list's body."""
    return [item["metadata"]["name"] for item in json.loads(body)["items"]]


@pytest.mark.usefixtures("kept")
async def test_a_start_without_the_api_server_serves_what_was_kept(objects: Any, start_agent: Any) -> None:
    """LIST and new WATCH are answered, ready is said, and no endpoint of another unit is shown."""
    async with start_agent() as site:
        found, _ = await site.list_and_watch(objects.slices)
        assert found == ["a", "web-zone.u1"]
        assert (await site.get("/sitegrid/readyz"))[0] == 200
        assert site.metrics.get("wan_down") == 1
        assert b"10.2.0.1" not in site.received


@pytest.mark.usefixtures("kept")
async def test_only_differences_reach_clients_when_the_api_server_is_back(
    api: Any, objects: Any, start_agent: Any
) -> None:
    """An open watch hears what happened meanwhile, and nothing of what stayed."""
    async with start_agent() as site:
        _, watch = await site.list_and_watch(objects.slices)
        api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
        await api.start()
        assert await watch.summary(1) == [("MODIFIED", "web-zone.u1")]
        api.put(objects.slices, objects.plain("b", "10.9.0.2"))
        assert await watch.summary(1) == [("ADDED", "b")]


@pytest.mark.usefixtures("kept")
async def test_lost_history_after_an_offline_start_is_listed_anew(api: Any, objects: Any, start_agent: Any) -> None:
    """What was deleted long ago is told as deleted, once the kept state cannot be resumed."""
    async with start_agent() as site:
        _, watch = await site.list_and_watch(objects.slices)
        api.delete(objects.slices, "a")
        api.expired_below = 10**9
        await api.start()
        assert await watch.summary(1) == [("DELETED", "a")]


@pytest.mark.usefixtures("kept")
async def test_a_restart_resumes_instead_of_listing(api: Any, objects: Any, start_agent: Any) -> None:
    """With the API server there, a restart costs the WAN what has changed and no list."""
    await api.start()
    api.requests.clear()
    async with start_agent() as site:
        assert await site.names(objects.slices) == ["a", "web-zone.u1"]
        assert api.requests
        assert all("resourceVersion=" in target for _, target, _ in api.requests)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("lost", [False, True])
async def test_a_restart_does_not_go_back_to_what_was_kept(
    api: Any, objects: Any, start_agent: Any, lost: bool
) -> None:
    """With the API server there, the first answer has what happened since, whether the history is there or lost."""
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.2"))
    api.expired_below = 10**9 if lost else 0
    await api.start()
    async with start_agent() as site:
        _, body = await site.get(objects.slices)
        assert [item["endpoints"][0]["addresses"] for item in body["items"]] == [["10.9.0.1"], ["10.1.0.2"]]


@pytest.mark.usefixtures("kept")
async def test_units_from_the_disk_end_when_the_api_server_speaks(api: Any, objects: Any, start_agent: Any) -> None:
    """A node that was relabelled meanwhile shows its new unit only."""
    async with start_agent() as site:
        _, watch = await site.list_and_watch(objects.slices)
        api.put(objects.nodes, objects.node("n1", zone="u2"))
        await api.start()
        events = [await watch.next(), await watch.next()]
        assert sorted((e["type"], e["object"]["metadata"]["name"]) for e in events) == [
            ("ADDED", "web-zone.u2"),
            ("DELETED", "web-zone.u1"),
        ]


async def test_a_kept_slice_of_a_former_unit_is_not_shown(api: Any, objects: Any, start_agent: Any) -> None:
    """What was kept of a unit that the node has left is not used, though it is on the disk."""
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    async with start_agent() as site:
        assert await site.names(objects.slices) == ["web-zone.u1"]
        api.put(objects.nodes, objects.node("n1", zone="u2"))
        await objects.eventually(lambda: "zone.u2" in site.hub.node.units)
        assert await site.names(objects.slices) == []
    await api.stop()
    async with start_agent() as site:
        # Nothing, where the new unit's source got so far; unknown where it did not.
        assert (await site.request("GET", objects.slices))[0] in (200, 503)
        assert b"10.1.0.1" not in site.received


async def test_an_agent_that_knows_nothing_says_so(api: Any, objects: Any, start_agent: Any) -> None:
    """Without API server and snapshot every view is 503 with Retry-After, never empty."""
    await api.stop()
    async with start_agent() as site:
        for path in (objects.slices, objects.services):
            status, headers, body = await site.request("GET", path)
            assert (status, headers["retry-after"], json.loads(body)["reason"]) == (503, "1", "ServiceUnavailable")
        assert (await site.get("/sitegrid/readyz"))[0] == 503


async def test_one_object_is_answered_from_what_was_listed(api: Any, objects: Any, start_agent: Any) -> None:
    """Services, slices and Endpoints that a list has shown; of all others nobody knows: 503, not 404."""
    api.put(objects.slices, objects.unit("zone.u1", "10.1.0.1"))
    api.put(objects.slices, objects.unit("zone.u2", "10.2.0.1"))
    for path, kind in ((objects.services, "Service"), (objects.endpoints, "Endpoints")):
        api.put(path, {"kind": kind, "apiVersion": "v1", "metadata": {"name": "a", "namespace": "default"}})
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    async with start_agent() as site:
        for path in (objects.slices, objects.services, objects.endpoints):
            assert (await site.request("GET", path, PROXY))[0] == 200
        await api.stop()
        for path in (f"{slices}/web-zone.u1", "/api/v1/namespaces/default/services/a"):
            status, _, body = await site.request("GET", path)
            assert (status, json.loads(body)["kind"]) == (200, "Service" if "services" in path else "EndpointSlice")
        for path in (f"{slices}/web-zone.u2", f"{slices}/none", "/api/v1/namespaces/default/services/none"):
            assert (await site.request("GET", path))[0] == 503
        own = "/api/v1/namespaces/default/endpoints/a"
        assert (await site.request("GET", own, PROXY))[0] == 200
        assert [(await site.request("GET", own, headers))[0] for headers in (OTHER, {})] == [503, 503]
        assert b"10.2.0.1" not in site.received


@pytest.mark.usefixtures("kept")
async def test_what_was_missed_is_kept_as_well(api: Any, objects: Any, start_agent: Any) -> None:
    """What an agent that starts from its disk hears before it shows anything is on its disk afterwards."""
    await api.start()
    api.put(objects.slices, objects.unit("zone.u1", "10.7.0.1"))
    async with start_agent() as site:
        await site.names(objects.slices)
    await api.stop()
    async with start_agent() as site:
        status, _, body = await site.request("GET", objects.slices)
        assert (status, b"10.7.0.1" in body) == (200, True)


@pytest.mark.parametrize("refusal", [None, (403, b"{}")])
async def test_a_service_is_not_replaced_while_it_may_be_a_grids(
    api: Any, objects: Any, start_agent: Any, refusal: Any
) -> None:
    """Where the API server cannot tell, a PUT is 503 and goes nowhere."""
    async with start_agent() as site:
        await objects.eventually(lambda: site.hub.node.known)
        if refusal is None:
            await api.stop()
        else:
            api.refusals["/api/v1/namespaces/default/services"] = refusal
        status, _, _ = await site.request("PUT", "/api/v1/namespaces/default/services/a", PROXY, b"{}")
        assert status == 503
        assert all(method == "GET" for method, _, _ in api.requests)


@pytest.mark.usefixtures("kept")
async def test_a_client_gets_what_its_own_credential_got(objects: Any, start_agent: Any) -> None:
    """Lists and single objects are answered to the credential that had them, to no other and to none."""
    async with start_agent() as site:
        status, _, body = await site.request("GET", objects.nodes, PROXY)
        assert (status, names(body)) == (200, ["n1"])
        status, _, body = await site.request("GET", f"{objects.nodes}/n1", PROXY)
        assert (status, json.loads(body)["metadata"]["name"]) == (200, "n1")
        for headers in (OTHER, {"User-Agent": PROXY["User-Agent"]}, {**PROXY, "User-Agent": "curl/8"}):
            for path in (objects.nodes, f"{objects.nodes}/n1"):
                assert (await site.request("GET", path, headers))[0] == 503


@pytest.mark.parametrize("key", ["", "rack"])
async def test_whose_slices_somebody_wrote_is_kept(api: Any, objects: Any, start_agent: Any, key: str) -> None:
    """A start without the API server shows them where it did before, and nothing for a Service of another key."""
    api.put(objects.slices, objects.plain("own", "10.9.0.1"))
    api.put(objects.slices, objects.plain("written", "10.9.0.2", **{"kubernetes.io/service-name": "a"}))
    if key:
        meta = {"name": "a", "namespace": "default", "labels": {"tkeedge.io/grid-uniq-key": key}}
        api.put(objects.services, {"kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": {}})
    shown = ["own"] if key else ["own", "written"]
    async with start_agent() as site:
        assert await site.names(objects.slices) == shown
    await api.stop()
    async with start_agent() as site:
        assert await site.names(objects.slices) == shown


@pytest.mark.parametrize(
    "header", ["Impersonate-User", "impersonate-group", "IMPERSONATE-UID", "Impersonate-Extra-a"]
)
async def test_who_impersonates_gets_nothing_that_was_kept(
    api: Any, objects: Any, start_agent: Any, header: str
) -> None:
    """Neither for its own credential nor for whom it names: only the API server knows what that one may see."""
    labels = {"namespace": "default", "name": "plain"}
    api.put(objects.endpoints, {"kind": "Endpoints", "apiVersion": "v1", "metadata": labels, "subsets": []})
    paths = ["/api/v1/namespaces/default/endpoints/plain", objects.endpoints, objects.nodes, f"{objects.nodes}/n1"]
    async with start_agent() as site:
        for path in (objects.endpoints, objects.nodes):
            assert (await site.request("GET", path, PROXY))[0] == 200
        await api.stop()
        await objects.eventually(lambda: site.metrics.get("wan_down"))
        for path in paths:
            assert (await site.request("GET", path, PROXY))[0] == 200, path
            assert (await site.request("GET", path, {**PROXY, header: "a"}))[0] in (400, 503), path


@pytest.mark.usefixtures("kept")
async def test_credentials_are_not_written(tmp_path: Path) -> None:
    """No file on the disk has a token in it, and nobody else may read any."""
    files = list((tmp_path / "data").iterdir())
    assert len(files) >= 5
    assert not any(b"token" in file.read_bytes() for file in files)
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("switched_on", [True, False])
async def test_secrets_are_on_the_disk_when_switched_on_only(
    api: Any, objects: Any, start_agent: Any, tmp_path: Path, switched_on: bool
) -> None:
    """A Secret that the kubelet reads is kept, in a file for its owner alone, if that is wanted, and else never."""
    path = "/api/v1/secrets"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "d"},
        "data": {"k": "cGFzcw=="},
    }
    api.put(path, secret)
    kubelet = {**PROXY, "User-Agent": "kubelet/v1"}
    async with start_agent(cache="kubelet", secrets=switched_on) as site:
        assert (await site.request("GET", path, kubelet))[0] == 200
    files = [file for file in (tmp_path / "data").iterdir() if b"cGFzcw==" in file.read_bytes()]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * switched_on
    await api.stop()
    async with start_agent(cache="kubelet", secrets=switched_on) as site:
        assert (await site.request("GET", path, kubelet))[0] == (200 if switched_on else 503)


async def test_reads_go_upstream_with_the_clients_credential(api: Any, objects: Any, start_agent: Any) -> None:
    """Two clients with different tokens are two questions, each under its own name; the agent's is not lent."""
    async with start_agent() as site:
        for headers in (PROXY, PROXY, OTHER):
            assert (await site.request("GET", objects.nodes, headers))[0] == 200
    asked = [h["authorization"] for _, target, h in api.requests if target.startswith(objects.nodes) and len(h) > 1
             and "authorization" in h]  # fmt: skip
    assert sorted(asked) == [OTHER["Authorization"], PROXY["Authorization"]]


async def test_a_refused_credential_loses_what_it_had(api: Any, objects: Any, start_agent: Any) -> None:
    """When the API server takes a credential no more, neither memory nor disk answers it, online or offline."""
    async with start_agent() as site:
        assert (await site.request("GET", objects.nodes, PROXY))[0] == 200
        api.refusals[objects.nodes] = (401, b'{"kind":"Status","code":401}')
        api.cut()
        await objects.eventually(lambda: site.metrics.get("upstream_failures_total", "refused 401") >= 2)
        assert (await site.request("GET", objects.nodes, PROXY))[0] == 401
    await api.stop()
    async with start_agent() as site:
        assert (await site.request("GET", objects.nodes, PROXY))[0] == 503


async def test_what_a_refused_credential_listed_is_not_shown_one_by_one(
    api: Any, objects: Any, start_agent: Any
) -> None:
    """Offline, a GET is not answered from what was listed before the API server took the credential no more."""
    async with start_agent() as site:
        assert (await site.request("GET", objects.nodes, PROXY))[0] == 200
        api.refusals[objects.nodes] = (401, b'{"kind":"Status","code":401}')
        api.cut()
        await objects.eventually(lambda: site.metrics.get("upstream_failures_total", "refused 401") >= 2)
        await api.stop()
        status, _, body = await site.request("GET", f"{objects.nodes}/n1", PROXY)
        assert (status, b'"zone"' in body) == (503, False)


async def test_open_watches_of_kept_reads_outlive_the_api_server(api: Any, objects: Any, start_agent: Any) -> None:
    """A client's watch stays open without the API server, and goes on with it."""
    async with start_agent() as site:
        head = "".join(f"{name}: {value}\r\n" for name, value in PROXY.items())
        reader, _ = await site.raw(
            f"GET {objects.nodes}?watch=true&resourceVersion=0 HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode()
        )
        assert b'"ADDED"' in await reader.readuntil(b"}\n")
        await api.stop()
        await objects.eventually(lambda: site.metrics.get("wan_down") == 1)
        await api.start()
        api.put(objects.nodes, objects.node("n1", zone="u1", again="yes"))
        assert b'"MODIFIED"' in await reader.readuntil(b"}\n")


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/v1/namespaces"), ("GET", "/api/v1/pods"),
                                              ("GET", "/version"), ("PUT", "/api/v1/nodes/n1/status")])  # fmt: skip
@pytest.mark.usefixtures("kept")
async def test_what_needs_the_api_server_is_refused(start_agent: Any, method: str, path: str) -> None:
    """Writes, and reads that are not kept, are a 503 Status with Retry-After."""
    async with start_agent() as site:
        status, headers, body = await site.request(method, path, PROXY, b"{}" if method != "GET" else b"")
        assert (status, json.loads(body)["reason"]) == (503, "ServiceUnavailable")
        assert int(headers["retry-after"]) > 0


@pytest.mark.usefixtures("kept")
async def test_another_nodes_disk_tells_nothing(objects: Any, start_agent: Any) -> None:
    """A disk that was copied to another node: offline that one's units are unknown, and it shows nothing at all."""
    async with start_agent(node_name="n2") as site:
        for path in (objects.slices, objects.services):
            assert (await site.request("GET", path))[0] == 503


@pytest.mark.usefixtures("kept")
async def test_a_damaged_file_costs_itself_only(objects: Any, start_agent: Any, tmp_path: Path) -> None:
    """The others are served, the damage is counted, and nothing of the damaged file is shown."""
    damaged = 0
    for file in (tmp_path / "data").iterdir():
        data = file.read_bytes()
        if b"10.1.0.1" in data:
            file.write_bytes(data[:-1])
            damaged += 1
    assert damaged == 1
    async with start_agent() as site:
        assert (await site.request("GET", objects.slices))[0] == 503
        assert (await site.request("GET", objects.nodes, PROXY))[0] == 200
        assert site.metrics.get("snapshot_failures_total", "damaged") >= 1


async def test_no_flipped_byte_keeps_an_agent_from_its_start(tmp_path: Path) -> None:
    """A source's document with any byte changed is none, and never an exception."""
    key = node_source_key("n1")
    Directory(tmp_path).write(Document(_name(key), (Record("n1", "12", b"raw"),), "12", {"at": "5"}))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    assert Disk(tmp_path, Metrics()).load(key) is not None
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x48]) + whole[place + 1 :])
        assert Disk(tmp_path, Metrics()).load(key) is None


@pytest.mark.parametrize("document", [("x", "12", {}), ("1", "", {}), ("1", "12", {"at": "now"}), ("-1", "12", {})])
async def test_a_whole_document_that_means_nothing_is_none(
    tmp_path: Path, document: tuple[str, str, dict[str, str]]
) -> None:
    """Whoever wrote it: an agent starts without it."""
    version, rv, metadata = document
    name = _name(node_source_key("n1"))
    Directory(tmp_path).write(Document(name, (Record("n1", version, b"raw"),), rv, metadata))
    found = Disk(tmp_path, Metrics()).load(node_source_key("n1"))
    assert found is None or (found.rv, found.objects["n1"].rv) == (12, 1)


async def test_an_unusable_disk_changes_nothing_else(
    api: Any, objects: Any, start_agent: Any, tmp_path: Path
) -> None:
    """Where nothing can be written the agent serves as ever, and counts it."""
    (tmp_path / "file").touch()
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    async with start_agent(data_dir=tmp_path / "file" / "data") as site:
        _, watch = await site.list_and_watch(objects.slices)
        api.put(objects.slices, objects.plain("b", "10.9.0.1"))
        assert await watch.summary(1) == [("ADDED", "b")]
        await objects.eventually(lambda: site.metrics.get("snapshot_failures_total", "unwritable") >= 1)
        assert b'snapshot_failures_total{reason="unwritable"}' in (await site.request("GET", "/sitegrid/metrics"))[2]


async def test_bookmarks_alone_are_not_written(api: Any, objects: Any, start_agent: Any, tmp_path: Path) -> None:
    """A cluster at rest costs the disk nothing."""
    async with start_agent() as site:
        await site.names(objects.slices)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "data").iterdir()}
    async with start_agent() as site:
        await site.names(objects.slices)
        api.rv += 1
        api.bookmark()
        await objects.eventually(lambda: site.metrics.get("upstream_events_total") >= 3)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "data").iterdir()} == before


async def test_what_nobody_asks_for_is_swept(objects: Any, start_agent: Any, tmp_path: Path) -> None:
    """Two sweeps after its last use a document is gone; what is in use stays."""
    async with start_agent() as site:
        await site.names(objects.slices, labelSelector="x=y")
    before = set((tmp_path / "data").iterdir())
    async with start_agent() as site:
        await site.names(objects.slices)
        disk = site.hub._disk
        assert disk is not None
        await disk.sweep(site.hub.source_keys())
        assert before - set((tmp_path / "data").iterdir())
    async with start_agent() as site:
        assert await site.names(objects.slices) == []


async def test_questions_without_end_do_not_fill_the_disk(
    objects: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that makes up selections gets its answers, and at some number of them no more are kept."""
    monkeypatch.setattr("sitegrid.agent.disk.MAX_DOCUMENTS", 10)
    async with start_agent() as site:
        for number in range(30):
            assert await site.names(objects.slices, labelSelector=f"made-up={number}") == []
    assert 5 <= len([*(tmp_path / "data").iterdir()]) <= 10 + 5  # the essential ones, the salt, and who was accepted


async def test_views_are_not_forgotten_offline(
    api: Any, objects: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is away for long during an outage finds everything when it is back."""
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    async with start_agent() as site:
        _, watch = await site.list_and_watch(objects.slices)
        await api.stop()
        await objects.eventually(lambda: site.metrics.get("wan_down") == 1)
        monkeypatch.setattr("sitegrid.agent.hub.LINGER", 0.01)
        watch.close()
        await objects.eventually(lambda: bool(site.hub._timers))
        first = next(iter(site.hub._timers.values()))
        await objects.eventually(lambda: first not in site.hub._timers.values())  # it has run out
        assert await site.names(objects.slices) == ["a"]


async def test_what_nobody_known_asks_for_is_not_written(
    api: Any, objects: Any, start_agent: Any, tmp_path: Path
) -> None:
    """Selections without an accepted credential leave nothing on the disk, until somebody known shares one."""
    api.unknown.add("Bearer wrong")
    async with start_agent() as site:
        await site.names(objects.slices)
    before = {path.name for path in (tmp_path / "data").iterdir()}
    async with start_agent() as site:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            for number in range(20):
                target = f"{objects.slices}?labelSelector=made-up%3D{number}"
                assert (await site.request("GET", target, headers))[0] == 200
        await site.request("GET", objects.nodes, {**PROXY, "Authorization": "Bearer wrong"})
    assert {path.name for path in (tmp_path / "data").iterdir()} == before
    async with start_agent() as site:
        assert (await site.request("GET", objects.slices + "?labelSelector=made-up", {}))[0] == 200
        assert await site.names(objects.slices, labelSelector="made-up") == []
    assert len([*(tmp_path / "data").iterdir()]) == len(before) + 1


@pytest.mark.parametrize("known", [False, True], ids=["nobody", "known"])
async def test_the_essentials_are_written_whatever_else_is_asked_for(
    api: Any, objects: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Made-up selections without end, then another label of the node, a cut and a restart: its new unit is served."""
    monkeypatch.setattr("sitegrid.agent.disk.MAX_DOCUMENTS", 10)
    api.put(objects.slices, objects.plain("a", "10.9.0.1"))
    api.put(objects.slices, objects.unit("zone.u2", "10.2.0.1"))
    async with start_agent() as site:
        for number in range(30):
            target = f"{objects.slices}?labelSelector=made-up%3D{number}"
            assert (await site.request("GET", target, PROXY if known else {}))[0] == 200
        _, watch = await site.list_and_watch(objects.slices)
        api.put(objects.nodes, objects.node("n1", zone="u2"))
        assert await watch.summary(1) == [("ADDED", "web-zone.u2")]
    await api.stop()
    async with start_agent() as site:
        assert await site.names(objects.slices) == ["a", "web-zone.u2"]


async def test_one_clients_documents_are_not_all_that_there_may_be(
    api: Any, objects: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known client that makes up selections leaves some documents to the next one."""
    monkeypatch.setattr("sitegrid.agent.disk.MAX_DOCUMENTS", 10)
    monkeypatch.setattr("sitegrid.agent.disk.SHARE", 6)
    api.put(objects.slices, objects.plain("a", "10.9.0.1", mine="yes"))
    async with start_agent() as site:
        for number in range(20):
            await site.names(objects.slices, labelSelector=f"made-up={number}")
        await site.request("GET", objects.nodes, PROXY)
    await api.stop()
    async with start_agent() as site:
        assert (await site.request("GET", objects.nodes, PROXY))[0] == 200
