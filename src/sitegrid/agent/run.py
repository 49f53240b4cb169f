"""Runs an agent: joins its parts, listens, and goes on until it is told to stop.

Called by `sitegrid.agent.__main__`. Binds to loopback only, unless told otherwise in so many words: whoever reaches
the listener sees the node's endpoints without credentials. There are two listeners, a plain one and one with TLS:
client-go does not send the token of its kubeconfig to a server with ``http://`` (client-go tools/clientcmd,
IsConfigTransportTLS), so clients that need more than Services and EndpointSlices have to use the second. Held by
``tests/agent/test_run.py``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
from typing import Any, Final, NamedTuple

from sitegrid.agent import allocator
from sitegrid.agent.credentials import Credentials, is_loopback
from sitegrid.agent.disk import Disk
from sitegrid.agent.hosts import certificate_names
from sitegrid.agent.hub import Hub
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.reads import DEFAULT, parse_reads
from sitegrid.agent.server import Server
from sitegrid.agent.upstream import Upstream, limit_tls_buffers

_log = logging.getLogger(__name__)

_CERTIFICATE_SECONDS: Final = 30.0
"""How often the certificate file is looked at."""


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


async def serve(settings: Settings, stop: asyncio.Event, listening: asyncio.Future[list[int]] | None = None) -> None:
    """Run until `stop`; `listening` gets the ports, the plain one first.

    Raises `ListenError`, `ReadsError`, and `AgentBroken`.
    """
    reads = parse_reads(settings.cache, secrets=settings.cache_secrets)
    addresses = [settings.listen, *([settings.tls_listen] if settings.tls_listen else [])]
    binds = [parse_listen(address, allow_non_loopback=settings.allow_non_loopback) for address in addresses]
    certificate = _ServerCertificate(settings.tls_certificate, settings.tls_key) if settings.tls_listen else None
    limit_tls_buffers()
    allocator.share_one_heap()
    metrics = Metrics()
    upstream = Upstream(settings.credentials)
    disk = Disk(settings.data_dir, metrics) if settings.data_dir else None
    upstream.start()
    hub = Hub(settings.node_name, upstream, metrics, disk)
    certified = (lambda: certificate.names) if certificate is not None else frozenset
    server = Server(hub, upstream, metrics, reads, certified)
    tasks: list[asyncio.Future[Any]] = []
    if certificate is not None:
        tasks.append(asyncio.ensure_future(certificate.follow()))
    if disk is not None:
        tasks.append(asyncio.ensure_future(disk.run(hub.source_keys, lambda: upstream.wan.up)))
    listeners: list[asyncio.Server] = []
    try:
        for (host, port), context in zip(
            binds, (None, certificate.context if certificate is not None else None), strict=False
        ):
            listeners.append(await _listen(server, host, port, context))
        ports = [listener.sockets[0].getsockname()[1] for listener in listeners]
        _log.info(
            "serving node %s on %s; API server %s; data directory %s; kept reads of %s",
            settings.node_name,
            " and ".join(f"{host}:{port}" for (host, _), port in zip(binds, ports, strict=True)),
            settings.credentials.host_header,
            settings.data_dir or "none, so a restart without the API server begins with nothing",
            settings.cache or "nobody",
        )
        if listening is not None:
            listening.set_result(ports)
        # What is loaded now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        tasks.append(asyncio.ensure_future(allocator.keep_small()))
        tasks.append(asyncio.ensure_future(stop.wait()))
        await asyncio.wait([tasks[-1], hub.broken], return_when=asyncio.FIRST_COMPLETED)
        if hub.broken.done():
            # A source that ended would leave its clients with what they have for ever (I6): a new process lists anew.
            _log.critical("a fault of the agent's own, which ends it", exc_info=hub.broken.exception())
            raise AgentBroken("a fault of the agent's own ended it, see its log; it has to be started again")
        _log.info("ending, as told")
    finally:
        for listener in listeners:
            listener.close()
        await server.close()
        hub.close()
        upstream.close()
        for task in tasks:
            task.cancel()
        if tasks:
            # What has changed lately is written now.
            await asyncio.wait(tasks)


async def _listen(server: Server, host: str, port: int, context: ssl.SSLContext | None) -> asyncio.Server:
    try:
        return await server.listen(host, port, context)
    except OSError as error:
        # asyncio's own text tells the address once more.
        why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
        raise ListenError(f"cannot listen on {host}:{port}: {why}") from error


async def serve_until_signalled(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises as `serve` does."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)
