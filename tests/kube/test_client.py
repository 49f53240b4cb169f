from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

import pytest
from aiohttp import web

from sitegrid import __version__
from sitegrid.kube.client import MAX_RETRIES, Client
from sitegrid.kube.config import Config
from sitegrid.kube.errors import ApiError, DecodeError, Unreachable
from sitegrid.kube.resources import CONFIGMAPS, DEPLOYMENTS, NODES
from sitegrid.lab.pki import Authority

Object = dict[str, Any]


class Scripted(Protocol):
    """The scripted server of conftest."""

    url: str
    requests: list[tuple[str, str, dict[str, str]]]
    headers: list[dict[str, str]]
    bodies: list[bytes]
    peers: list[object]

    def then_json(self, body: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""

    def then_stream(self, *chunks: bytes, hang: bool = False, abort: bool = False) -> None:
        """Answer with chunks."""

    async def wait_for_requests(self, count: int) -> None:
        """Wait."""


def status(code: int, reason: str) -> Object:
    """Return a Status."""
    return {"kind": "Status", "code": code, "reason": reason, "message": "scripted"}


async def test_every_request_tells_who_asks(server: Scripted) -> None:
    """User-Agent and bearer token are on plain requests and watches."""
    server.then_json({"kind": "Node"})
    server.then_stream()
    async with Client(Config(server=server.url, token="secret")) as client:
        await client.get(NODES, "n")
        async for _ in client.watch(NODES):
            pass
    for headers in server.headers:
        assert headers["User-Agent"] == f"sitegrid/{__version__}"
        assert headers["Authorization"] == "Bearer secret"


async def test_a_rotated_token_is_used_at_once(server: Scripted, tmp_path: Path) -> None:
    """The next request after the file changed carries the new token."""
    file = tmp_path / "token"
    file.write_text("first\n")
    server.then_json({})
    server.then_json({})
    async with Client(Config(server=server.url, token_file=file)) as client:
        await client.get(NODES, "n")
        (tmp_path / "next").write_text("second\n")
        (tmp_path / "next").rename(file)
        await client.get(NODES, "n")
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer first", "Bearer second"]


async def test_apply_is_server_side_apply(client: Client, server: Scripted) -> None:
    """Content type, field manager and options are as the API wants them; the body is JSON."""
    server.then_json({"ok": True})
    obj = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "ns"}}
    await client.apply(DEPLOYMENTS, obj, field_manager="sitegrid", force=True, subresource="status", dry_run=True)
    assert server.requests == [
        (
            "PATCH",
            "/apis/apps/v1/namespaces/ns/deployments/d/status",
            {"fieldManager": "sitegrid", "force": "true", "dryRun": "All"},
        )
    ]
    assert server.headers[0]["Content-Type"] == "application/apply-patch+yaml"
    assert json.loads(server.bodies[0]) == obj


async def test_selectors_arrive_unchanged(client: Client, server: Scripted) -> None:
    """Every character of a selector survives the query string."""
    server.then_json({"metadata": {"resourceVersion": "1"}, "items": []})
    selector = "!a.io/b,c in (d,e+f),g=h&i;j%2C"
    await client.list(CONFIGMAPS, label_selector=selector, field_selector="metadata.name!=x")
    assert server.requests[0][2] == {
        "labelSelector": selector,
        "fieldSelector": "metadata.name!=x",
        "limit": "500",
    }


async def test_a_list_is_all_its_pages(client: Client, server: Scripted) -> None:
    """Pages are followed, and items have the apiVersion and kind that lists leave out."""
    server.then_json({"metadata": {"resourceVersion": "7", "continue": "t"}, "items": [{"metadata": {"name": "a"}}]})
    server.then_json({"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]})
    found = await client.list(CONFIGMAPS, "ns", limit=1)
    assert [item["metadata"]["name"] for item in found.items] == ["a", "b"]
    assert found.items[0]["apiVersion"] == "v1"
    assert found.items[0]["kind"] == "ConfigMap"
    assert found.resource_version == "7"
    assert [query for _, _, query in server.requests] == [{"limit": "1"}, {"limit": "1", "continue": "t"}]


async def test_an_empty_list_may_be_null(client: Client, server: Scripted) -> None:
    """`items: null` is no error."""
    server.then_json({"metadata": {"resourceVersion": "7"}, "items": None})
    assert (await client.list(CONFIGMAPS)).items == []


async def test_delete_sends_its_preconditions(client: Client, server: Scripted) -> None:
    """Only the object that was meant is deleted."""
    server.then_json(status(200, ""))
    await client.delete(
        CONFIGMAPS, "a", "ns", uid="u", resource_version="3", propagation_policy="Orphan", grace_period_seconds=0
    )
    assert server.requests[0][:2] == ("DELETE", "/api/v1/namespaces/ns/configmaps/a")
    assert json.loads(server.bodies[0]) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u", "resourceVersion": "3"},
        "propagationPolicy": "Orphan",
        "gracePeriodSeconds": 0,
    }


@pytest.mark.parametrize("code", [429, 503])
async def test_what_the_server_wants_repeated_is_repeated(client: Client, server: Scripted, code: int) -> None:
    """429 and 503 with Retry-After are tried again, with the same body."""
    server.then_json(status(code, ""), code, {"Retry-After": "0"})
    server.then_json({"done": True})
    assert await client.request("POST", "/api/v1/nodes", body={"a": 1}) == {"done": True}
    assert server.bodies[0] == server.bodies[1]


async def test_repeating_is_bounded(client: Client, server: Scripted) -> None:
    """A server that always says later is given up on."""
    for _ in range(MAX_RETRIES + 1):
        server.then_json(status(429, "TooManyRequests"), 429, {"Retry-After": "0"})
    with pytest.raises(ApiError) as raised:
        await client.get(NODES, "n")
    assert raised.value.status == 429
    assert len(server.requests) == MAX_RETRIES + 1


@pytest.mark.parametrize(
    ("code", "headers"), [(500, {"Retry-After": "0"}), (503, None), (429, {"Retry-After": "3600"})]
)
async def test_nothing_else_is_repeated(
    client: Client, server: Scripted, code: int, headers: dict[str, str] | None
) -> None:
    """Other failures, failures without Retry-After, and hours of waiting are the caller's decision."""
    server.then_json(status(code, ""), code, headers)
    with pytest.raises(ApiError):
        await client.request("POST", "/api/v1/nodes", body={})
    assert len(server.requests) == 1


async def test_connections_are_used_again(client: Client, server: Scripted) -> None:
    """Requests in a row, refused ones among them, need one connection."""
    server.then_json({})
    server.then_json(status(404, "NotFound"), 404)
    server.then_json({})
    await client.get(NODES, "n")
    with pytest.raises(ApiError):
        await client.get(NODES, "n")
    await client.get(NODES, "n")
    assert len(set(server.peers)) == 1


async def test_refused_connections_are_unreachable() -> None:
    """No answer is told apart from a refusing answer."""
    async with Client(Config(server="http://127.0.0.1:1")) as client:
        with pytest.raises(Unreachable, match="/api/v1/nodes/n"):
            await client.get(NODES, "n")


async def test_an_answer_cut_off_is_unreachable(client: Client, server: Scripted) -> None:
    """Half an answer is no answer."""
    server.then_stream(b'{"half":', abort=True)
    with pytest.raises(Unreachable):
        await client.get(NODES, "n")


async def test_a_request_without_answer_ends(server: Scripted) -> None:
    """A server that never answers is unreachable after the time limit."""
    async with Client(Config(server=server.url), timeout=0.05) as client:
        with pytest.raises(Unreachable):
            await client.get(NODES, "n")


async def test_a_success_that_is_not_json_is_an_error(client: Client, server: Scripted) -> None:
    """A captive portal's page is not taken for an object."""
    server.then_stream(b"<html>welcome</html>")
    with pytest.raises(DecodeError, match="/api/v1/nodes/n"):
        await client.get(NODES, "n")


async def test_a_redirect_is_not_followed(client: Client, server: Scripted) -> None:
    """The token is not carried elsewhere."""
    server.then_json({}, 302, {"Location": f"{server.url}/elsewhere"})
    with pytest.raises(ApiError) as raised:
        await client.get(NODES, "n")
    assert raised.value.status == 302
    assert len(server.requests) == 1


async def test_watches_do_not_use_up_the_connections(server: Scripted) -> None:
    """Many open watches leave plain requests their way."""
    async with Client(Config(server=server.url), connection_limit=1) as client:
        watching = [asyncio.create_task(_drain(client)) for _ in range(3)]
        await server.wait_for_requests(3)
        server.then_json({"kind": "Node"})
        assert await client.get(NODES, "n") == {"kind": "Node"}
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)


async def _drain(client: Client) -> None:
    async for _ in client.watch(NODES):
        pass


async def test_a_watch_yields_events_and_raises_errors(client: Client, server: Scripted) -> None:
    """Events come first, then the ERROR event as an exception."""
    server.then_stream(
        b'{"type":"ADDED","object":{"metadata":{"name":"n","resourceVersion":"4"}}}\n'
        b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}\n'
    )
    seen = []
    with pytest.raises(ApiError) as raised:
        async for event in client.watch(NODES, resource_version="3"):
            seen.append((event.type, event.resource_version))
    assert seen == [("ADDED", "4")]
    assert raised.value.gone


async def test_a_watch_can_be_left(client: Client, server: Scripted) -> None:
    """Leaving the loop early closes the connection."""
    server.then_stream(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"4"}}}\n', hang=True)
    async with aclosing(client.watch(NODES)) as events:
        async for event in events:
            assert event.type == "BOOKMARK"
            break


async def test_tls_is_verified_and_client_certificates_are_shown(tmp_path: Path) -> None:
    """A server is talked to only if the configured CA vouches for it; it sees our certificate."""
    authority = Authority()
    server, user = authority.server("server", [], ["127.0.0.1"]), authority.client("test")
    ca, cert, key = authority.pair.certificate, user.certificate, user.key
    file = tmp_path / "server.pem"
    file.write_bytes(server.certificate + server.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca.decode())
    context.load_cert_chain(file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        return web.json_response({"subject": peer["subject"][0][0][1]})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        trusted = Config(server=url, ca=ca, client_cert=cert, client_key=key)
        async with Client(trusted) as client:
            assert await client.request("GET", "/x") == {"subject": "test"}
        async with Client(Config(server=url, client_cert=cert, client_key=key)) as client:
            with pytest.raises(Unreachable, match=r"(?i)certificate"):
                await client.request("GET", "/x")
        async with Client(Config(server=url, ca=ca, tls_server_name="other.test")) as client:
            with pytest.raises(Unreachable, match=r"(?i)certificate"):
                await client.request("GET", "/x")
    finally:
        await runner.cleanup()


async def test_broken_certificates_are_told(server: Scripted) -> None:
    """A CA that is no certificate is an error with a reason, when the client is opened."""
    with pytest.raises(Unreachable, match="certificates of the configuration"):
        async with Client(Config(server="https://127.0.0.1:1", ca=b"not a certificate")):
            pass
