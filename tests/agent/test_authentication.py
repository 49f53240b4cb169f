"""Who is authenticated is learned from the API server's answers, and from nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitegrid.agent.authentication import MAX_ACCEPTED, Authentication
from sitegrid.agent.reply import UpstreamError

MINE = {"Authorization": "Bearer mine"}
PROXY = {"User-Agent": "kube-proxy/v1.36.3 (linux/amd64)", **MINE}


def accepted(site: Any, authorization: str = "Bearer mine") -> bool:
    """Tell whether the agent takes a client for authenticated."""
    authentication = site.hub.authentication
    return bool(authentication.accepted(authentication.identity(authorization)))


async def test_a_passed_request_tells(site: Any, api: Any) -> None:
    """A success is one of the credential, a 401 its end; what else the API server says tells nothing."""
    await site.request("GET", "/apis/x/v1/y", MINE)
    assert accepted(site)
    api.unknown.add("Bearer mine")
    await site.request("GET", "/apis/x/v1/y", MINE)
    assert not accepted(site)
    api.unknown.clear()
    api.refusals["/api/v1/nodes"] = (403, b"{}")
    assert (await site.request("GET", "/api/v1/nodes", MINE))[0] == 403
    assert not accepted(site)


async def test_an_upload_and_an_upgrade_tell_too(site: Any) -> None:
    """So do requests with connections of their own."""
    await site.request("POST", "/apis/x/v1/y", MINE, b"x" * 20_000)
    assert accepted(site)
    upgrade = b"Connection: Upgrade\r\nUpgrade: echo\r\nAuthorization: Bearer o\r\n\r\n"
    reader, _ = await site.raw(b"GET /exec HTTP/1.1\r\nHost: localhost\r\n" + upgrade)
    await reader.readuntil(b"hello")
    assert accepted(site, "Bearer o")


async def test_reads_with_a_clients_own_credential_tell(site: Any, api: Any, objects: Any) -> None:
    """So do a kept read, and the GET of an object."""
    assert (await site.request("GET", objects.nodes, PROXY))[0] == 200
    assert accepted(site)
    await site.request("GET", "/api/v1/namespaces/default/services/web", {"Authorization": "Bearer other"})
    assert accepted(site, "Bearer other")
    api.unknown.add("Bearer wrong")
    await site.request("GET", objects.nodes, {**PROXY, "Authorization": "Bearer wrong"})
    assert not accepted(site, "Bearer wrong")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic mine"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer  mine"},
        {"Authorization": "\xa0Bearer mine"},
        {"Authorization": "Bearer mine too"},
        {"Connection": "close, Authorization", "Authorization": "Bearer mine"},
        {},
    ],
)
async def test_what_the_api_server_may_take_for_no_token_tells_nothing(site: Any, headers: dict[str, str]) -> None:
    """What is answered as it would be to anybody, or reaches the API server without its header, is no success."""
    lines = ["GET /apis/x/v1/y HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    reader, _ = await site.raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
    assert b" 200 " in await reader.readline()
    assert not accepted(site, "Bearer mine")
    assert not accepted(site, headers.get("Authorization", ""))


async def test_who_reads_what_needs_no_credential_is_asked_about_later(
    site: Any, api: Any, objects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks for guarded resources alone is known after a while, and what it reads is its own."""
    monkeypatch.setattr("sitegrid.agent.authentication.LOOK_AFTER", 0.0)
    await site.request("GET", objects.slices + "?labelSelector=a", MINE)
    await objects.eventually(lambda: accepted(site))
    for _ in range(3):
        await site.request("GET", objects.slices + "?labelSelector=a", MINE)
    assert [target for _, target, headers in api.requests if headers.get("authorization") == "Bearer mine"] == [
        "/version"
    ]


async def test_accepted_ones_are_remembered_without_the_api_server(api: Any, start_agent: Any, objects: Any) -> None:
    """An agent that starts while the WAN is down knows whom the API server had accepted, and no one else."""
    async with start_agent() as site:
        await site.request("GET", "/apis/x/v1/y", MINE)
        await site.request("GET", "/apis/x/v1/y", {"Authorization": "Bearer other"})
        api.unknown.add("Bearer other")
        await site.request("GET", "/apis/x/v1/y", {"Authorization": "Bearer other"})
    await api.stop()
    async with start_agent() as site:
        assert accepted(site)
        assert not accepted(site, "Bearer other")
        assert not await site.hub.authentication.ask("Bearer new")


async def test_a_server_that_has_ended_asks_nothing_any_more(site: Any, objects: Any) -> None:
    """An agent that stands by for another one looks at no token that was shown to it while it ended."""
    await site.names(objects.slices)
    site.hub.close()
    await site.request("GET", objects.slices, MINE)
    authentication = site.hub.authentication
    assert authentication._looks
    await site.server.close()
    assert not authentication._looks
    await objects.eventually(lambda: not authentication._asked)


class _Deaf:
    """An API server that counts the questions, and answers none until it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()

    async def pass_on(self, *question: Any) -> None:
        """Ask."""
        self.asked += 1
        await self.go.wait()
        raise UpstreamError("the WAN is down")


async def test_questions_are_few_at_a_time() -> None:
    """All who want to know about a token share one question; however many tokens there are, few are asked about."""
    upstream = _Deaf()
    authentication = Authentication(upstream, lambda text: text)  # type: ignore[arg-type]
    asking = [asyncio.ensure_future(authentication.ask(f"Bearer {number % 50}")) for number in range(200)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert upstream.asked == 16
    upstream.go.set()
    assert not any(await asyncio.gather(*asking))


@given(
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from([200, 201, 101, 401, 403, 404, 429, 503])), max_size=600)
)
def test_what_is_remembered_is_the_last_that_was_heard(heard: list[tuple[int, int]]) -> None:
    """Only credentials whose last word was a success are accepted, and not more than can be kept."""

    async def run() -> None:
        authentication = Authentication(None, lambda text: text)  # type: ignore[arg-type]
        expected: dict[str, None] = {}
        for number, status in heard:
            authentication.heard(f"Bearer {number}", status)
            if status < 300 or status == 401:
                expected.pop(f"Bearer {number}", None)
            if status < 300:
                expected[f"Bearer {number}"] = None
            expected = dict.fromkeys([*expected][-MAX_ACCEPTED:])
        assert authentication.remembered() == tuple(expected)

    asyncio.run(run())
