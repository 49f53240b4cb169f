"""How one HTTP request gets to the API server: the session, TLS, the token, and the end of connections.

Used by `sitegrid.kube.client`, and the TLS context by whoever speaks to an API server in another way. A request that
is refused for its credential (401) was not looked at any further: where a plugin gives credentials, it is sent once
more with another one. Invariants: TLS is verified; a token is sent to the configured server only; a peer that is gone
is noticed within a minute or so, also on a watch that is silent for long; when `close` returns no connection is left.
Held by ``tests/kube/test_client.py``, ``tests/kube/test_execplugin.py``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from sitegrid.kube.config import Config
from sitegrid.kube.errors import Unreachable
from sitegrid.kube.execplugin import Credential, PluginCredentials
from sitegrid.kube.token import Token

log = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 1.0
"""Seconds to wait at the end for connections to close."""


class Transport:
    """One session with the API server of `config`, between `open` and `close`."""

    def __init__(self, config: Config, user_agent: str) -> None:
        self._config = config
        self._user_agent = user_agent
        self._token = Token(config)
        self._plugin = PluginCredentials(config.exec_plugin) if config.exec_plugin is not None else None
        self._certified: tuple[bytes | None, ssl.SSLContext] | None = None
        """The plugin's client certificate that was used last, and the TLS context with it."""
        self._session: aiohttp.ClientSession | None = None
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    async def open(self) -> None:
        """Make the session. Raises Unreachable where the configuration's certificates cannot be used."""
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=ssl_context(self._config) if self._config.server.startswith("https:") else True,
            socket_factory=self._new_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._user_agent, "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close all connections, also those of cancelled requests: their TLS ends in the background.

        aiohttp does not see that, and a loop that ended before would leak them.
        """
        if self._session is not None:
            await self._session.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSE_TIMEOUT
        while any(sock.fileno() != -1 for sock in self._sockets):
            if loop.time() > deadline:
                log.debug("connections did not close in time")
                return
            await asyncio.sleep(0.005)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        data: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request and yield its answer, of which nothing is read yet. Raises as aiohttp does."""
        url = URL(self._config.server + path + (f"?{urlencode(params)}" if params else ""), encoded=True)
        async with AsyncExitStack() as answers:
            credential = await self._plugin.current() if self._plugin is not None else None
            response = await answers.enter_async_context(self._send(method, url, headers, timeout, data, credential))
            if self._plugin is not None and response.status == HTTPStatus.UNAUTHORIZED:
                credential = await self._plugin.current(refused=credential)
                response = await answers.enter_async_context(
                    self._send(method, url, headers, timeout, data, credential)
                )
            yield response

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        data: bytes | None,
        credential: Credential | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is not open: use `async with`")
        token = self._token.current() if credential is None else credential.token
        async with self._session.request(
            method,
            url,
            data=data,
            headers={**headers, "Authorization": f"Bearer {token}"} if token else headers,
            timeout=timeout,
            ssl=self._context_of(credential),
            # A redirect would carry the token elsewhere; the API server has none to give.
            allow_redirects=False,
            server_hostname=self._config.tls_server_name,
        ) as response:
            try:
                yield response
            finally:
                if response.connection is not None and response.connection.transport is not None:
                    # Left before its end. A polite TLS close would wait for a peer that may be dead.
                    response.connection.transport.abort()

    def _context_of(self, credential: Credential | None) -> ssl.SSLContext | bool:
        """Return the TLS context with a plugin's certificate, True for the session's own."""
        if credential is None or credential.client_cert is None or not self._config.server.startswith("https:"):
            return True
        if self._certified is None or self._certified[0] != credential.client_cert:
            config = replace(
                self._config, client_cert=credential.client_cert, client_key=credential.client_key, exec_plugin=None
            )
            self._certified = credential.client_cert, ssl_context(config)
        return self._certified[1]

    def _new_socket(self, addr_info: Any) -> socket.socket:
        sock = _socket_with_keepalive(addr_info)
        self._sockets.add(sock)
        return sock


class unreachable:
    """Turns what aiohttp and the socket raise into Unreachable, with the path in its text."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, aiohttp.ClientError | TimeoutError | OSError) and not isinstance(error, Unreachable):
            raise Unreachable(f"{self._path}: {error or type(error).__name__}") from error


def ssl_context(config: Config) -> ssl.SSLContext:
    """Return what verifies the server and shows the client's certificate; raises Unreachable without usable ones."""
    try:
        context = ssl.create_default_context(cadata=config.ca.decode("ascii") if config.ca else None)
        # Python 3.13 also demands RFC 5280's optional extensions, which many clusters' own CAs lack. The chain and
        # the host name are verified all the same.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if config.client_cert and config.client_key:
            # The ssl module reads certificates from files only; this one is 0600 and gone at once.
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory) / "client.pem"
                file.touch(0o600)
                file.write_bytes(config.client_cert + b"\n" + config.client_key)
                context.load_cert_chain(file)
    except (ssl.SSLError, ValueError) as error:
        raise Unreachable(f"certificates of the configuration: {error}") from error
    return context


def _socket_with_keepalive(addr_info: Any) -> socket.socket:
    """Return a socket whose peer is noticed to be gone about a minute later, though a watch is silent for long."""
    family, kind, protocol = addr_info[:3]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 60_000),
    ):
        if hasattr(socket, name):  # macOS lacks some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock
