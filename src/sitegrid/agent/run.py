"""Runs an agent: joins its parts, listens, and goes on until it is told to stop.

Called by `sitegrid.agent.__main__`. What listens is taken over from the agent before, if there is one, and handed to
the next (`handover`). Binds to loopback only, unless told otherwise in so many words: whoever reaches
the listener sees the node's endpoints without credentials. There are two listeners, a plain one and one with TLS:
client-go does not send the token of its kubeconfig to a server with ``http://`` (client-go tools/clientcmd,
IsConfigTransportTLS), so clients that need more than Services and EndpointSlices have to use the second. Held by
``tests/agent/test_run.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import ssl
from typing import Any, Final, NamedTuple

from sitegrid.agent import allocator
from sitegrid.agent.credentials import Credentials, is_loopback
from sitegrid.agent.disk import Disk
from sitegrid.agent.handover import Handover, OccupiedError
from sitegrid.agent.hosts import certificate_names
from sitegrid.agent.hub import Hub
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.reads import DEFAULT, Reads, parse_reads
from sitegrid.agent.server import Server
from sitegrid.agent.upstream import Upstream, limit_tls_buffers

_log = logging.getLogger(__name__)

_CERTIFICATE_SECONDS: Final = 30.0
"""How often the certificate file is looked at."""
_SCHEMES: Final = ("http", "https")
"""What is spoken on the first and on the second address."""


class AgentBroken(Exception):
    """A fault of the agent's own code, after which it would not follow the API server any more."""


class ListenError(Exception):
    """The address cannot be listened on; the message says why."""


class Settings(NamedTuple):
    """What one agent is told."""

    node_name: str
    credentials: Credentials
    listen: str = "127.0.0.1:10351"
    allow_non_loopback: bool = False
    tls_listen: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    data_dir: str = ""
    """Where the state of its sources is kept; without it an agent that starts while the WAN is down knows nothing."""
    cache: str = DEFAULT
    cache_secrets: bool = False


class _ServerCertificate:
    """The certificate that the agent shows its clients, and the `names` in it; read again when the file changes."""

    def __init__(self, certificate: str, key: str) -> None:
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._version = self._load()

    def _load(self) -> int:
        try:
            version = os.stat(self._certificate).st_mtime_ns
            self.context.load_cert_chain(self._certificate, self._key)
            with open(self._certificate, encoding="latin-1") as file:
                self.names = certificate_names(file.read())
        except ssl.SSLError as error:
            raise ListenError(
                f"--tls-cert-file {self._certificate} and --tls-private-key-file {self._key} are not a certificate "
                f"and its key in PEM: {error.reason or error}"
            ) from error
        except OSError as error:
            raise ListenError(f"{error.filename or self._certificate}: {error.strerror}") from error
        return version

    async def follow(self) -> None:
        """Load the files again whenever they change; what cannot be loaded is logged, and the old one stays."""
        while True:
            await asyncio.sleep(_CERTIFICATE_SECONDS)
            try:
                if os.stat(self._certificate).st_mtime_ns != self._version:
                    self._version = self._load()
            except (ListenError, OSError) as error:
                _log.error("the new certificate cannot be used: %s", error)


def parse_listen(listen: str, *, allow_non_loopback: bool) -> tuple[str, int]:
    """Return host and port of `listen`. Raises `ListenError`, also for an address that others can reach."""
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ListenError(f"listen address {listen!r} is not HOST:PORT")
    if not is_loopback(host) and not allow_non_loopback:
        raise ListenError(
            f"listen address {listen!r} is not loopback: everyone who reaches it could read this node's endpoints "
            "(--allow-non-loopback if that is what you want)"
        )
    return host, int(port)


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    listening: asyncio.Future[list[int]] | None = None,
    handover: Handover | None = None,
) -> bool:
    """Run until `stop`; `listening` gets the ports, the plain one first.

    When another agent takes over, stand by until `stop`. True tells that this one is wanted again, with what is left
    open in `handover`: that one has ended, or this one is to begin anew. Raises `ListenError`, `ReadsError`, and
    `AgentBroken`.
    """
    if handover is None:
        with contextlib.closing(Handover()) as handover:
            return await serve(settings, stop, listening, handover)
    reads = parse_reads(settings.cache, secrets=settings.cache_secrets)
    listens = [settings.listen, *([settings.tls_listen] if settings.tls_listen else [])]
    for listen in listens:
        parse_listen(listen, allow_non_loopback=settings.allow_non_loopback)
    certificate = _ServerCertificate(settings.tls_certificate, settings.tls_key) if settings.tls_listen else None
    limit_tls_buffers()
    allocator.share_one_heap()
    if settings.data_dir:
        # From here on nobody else writes there, and who did has written all that it knew.
        try:
            await handover.begin(settings.data_dir)
        except OccupiedError as error:
            raise ListenError(str(error)) from error
    handover.drop_others(map(_url, listens, _SCHEMES))
    agent = _Agent(settings, reads, certificate, handover)
    try:
        ports = await agent.listen(listens)
        if listening is not None:
            listening.set_result(ports)
        await agent.run(stop)
    finally:
        await agent.close()
    await handover.give(stop)
    return not stop.is_set()


def _url(listen: str, scheme: str) -> str:
    """Return what an agent listens on, as it is told to the next one."""
    return f"{scheme}://{listen}"


class _Agent:
    """The parts of a running agent."""

    def __init__(
        self, settings: Settings, reads: Reads, certificate: _ServerCertificate | None, handover: Handover
    ) -> None:
        self._settings = settings
        self._handover = handover
        self._context = certificate.context if certificate is not None else None
        metrics = Metrics()
        self._upstream = Upstream(settings.credentials)
        self._disk = Disk(settings.data_dir, metrics) if settings.data_dir else None
        self._upstream.start()
        self._hub = Hub(settings.node_name, self._upstream, metrics, self._disk, live=handover.live)
        certified = (lambda: certificate.names) if certificate is not None else frozenset
        self._server = Server(self._hub, self._upstream, metrics, reads, certified)
        self._listeners: list[asyncio.Server] = []
        self._tasks: list[asyncio.Future[Any]] = []
        if certificate is not None:
            self._tasks.append(asyncio.ensure_future(certificate.follow()))
        if self._disk is not None:
            writing = self._disk.run(self._hub.source_keys, lambda: self._upstream.wan.up)
            self._tasks.append(asyncio.ensure_future(writing))

    async def listen(self, listens: list[str]) -> list[int]:
        """Listen on these addresses, the second one with TLS; return the ports. Raises `ListenError`."""
        ports = []
        for listen, scheme in zip(listens, _SCHEMES, strict=False):
            listeners = await self._listen(listen, scheme)
            ports.append(listeners[0].sockets[0].getsockname()[1])
            self._listeners += listeners
        self._handover.watch()
        _log.info(
            "serving node %s on %s; API server %s; data directory %s; kept reads of %s",
            self._settings.node_name,
            " and ".join(f"{listen.rpartition(':')[0]}:{port}" for listen, port in zip(listens, ports, strict=True)),
            self._settings.credentials.host_header,
            self._settings.data_dir or "none, so a restart without the API server begins with nothing",
            self._settings.cache or "nobody",
        )
        return ports

    async def _listen(self, listen: str, scheme: str) -> list[asyncio.Server]:
        url = _url(listen, scheme)
        context = self._context if scheme == "https" else None
        taken = self._handover.listening(url)
        if taken:
            return [await self._server.listen_on(sock, context) for sock in taken]
        host, port = parse_listen(listen, allow_non_loopback=self._settings.allow_non_loopback)
        try:
            listener = await self._server.listen(host, port, context)
        except OSError as error:
            # asyncio's own text tells the address once more.
            why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
            raise ListenError(f"cannot listen on {host}:{port}: {why}") from error
        self._handover.keep(url, listener.sockets)
        return [listener]

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`, or until the next agent asks. Raises `AgentBroken`."""
        # What is loaded now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self._tasks.append(asyncio.ensure_future(allocator.keep_small()))
        self._tasks += [asyncio.ensure_future(event.wait()) for event in (stop, self._handover.wanted)]
        await asyncio.wait([*self._tasks[-2:], self._hub.broken], return_when=asyncio.FIRST_COMPLETED)
        if self._hub.broken.done():
            # A source that ended would leave its clients with what they have for ever (I6): a new process lists anew.
            _log.critical("a fault of the agent's own", exc_info=self._hub.broken.exception())
            raise AgentBroken("a fault of the agent's own ended it, see its log; it has to be started again")
        _log.info("ending, as told" if stop.is_set() else "ending for the next agent")

    async def close(self) -> None:
        """End everything but the sockets that listen, and write what is known."""
        self._handover.unwatch()
        for listener in self._listeners:
            listener.close()
        broken = self._hub.broken.done()
        self._hub.close()
        # Nothing changes any more: what clients are told last is what is written.
        sources, places = self._hub.shown_sources(), self._hub.places()
        await self._server.end()
        self._upstream.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            # What has changed lately is written now.
            await asyncio.wait(self._tasks)
        if self._disk is not None and not broken:
            await self._disk.leave(sources, places)


async def serve_until_signalled(settings: Settings, handover: Handover) -> bool:
    """Run until SIGTERM or SIGINT; SIGHUP has the agent begin anew. Returns and raises as `serve` does."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, handover.wanted.set)
    return await serve(settings, stop, handover=handover)
