"""Fixtures of the agent's tests: a fake API server that misbehaves on request, a real one, agents, and HTTP clients.

Every byte that a client of an agent receives is kept in `Site.received`, so that a test can look for what must not
be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import pytest
import yaml

from sitegrid.agent.credentials import Credentials, from_kubeconfig
from sitegrid.agent.disk import Disk
from sitegrid.agent.hub import Hub
from sitegrid.agent.metrics import Metrics
from sitegrid.agent.reads import DEFAULT, parse_reads
from sitegrid.agent.server import Server
from sitegrid.agent.upstream import Upstream
from sitegrid.lab.pki import Authority
from sitegrid.wire import protobuf
from sitegrid.wire.frames import length_frame
from sitegrid.wire.labels import (
    ENDPOINTSLICE_CONTROLLER,
    GRID_UNIQ_KEY,
    HEADLESS,
    MANAGED_BY,
    SERVICE_NAME,
    SERVICE_PROXY_NAME,
    SITEGRID,
    UNIT,
    UNIT_SERVICE_NAME,
)
from sitegrid.wire.selectors import LabelSelector
from tests.support.controlplane import ApiServer, free_port, reserve_port
from tests.support.http2server import ApiServer as Http2Server
from tests.support.processes import start

RBAC = Path(__file__).parents[2] / "deploy" / "rbac" / "agent.yaml"
ADMIN = "admin-token"
AGENT = "agent-token"
READER = "reader-token"
CLIENT: Final = {"Authorization": "Bearer clients-token"}
"""What a client of an agent in front of the fake says, unless it says something else: it has long been accepted."""


def write_certificate(directory: Path) -> None:
    """Write a certificate for 127.0.0.1, with its authority's behind it, and its key: tls.crt, tls.key."""
    authority = Authority()
    pair = authority.server("test", [], ["127.0.0.1"])
    (directory / "tls.crt").write_bytes(pair.certificate + authority.pair.certificate)
    (directory / "tls.key").write_bytes(pair.key)


@pytest.fixture(scope="session", autouse=True)
def packed() -> Iterator[None]:
    """Have agents of this process pack objects as soon as they know one, and not only where there are very many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sitegrid.wire.packed.DICTIONARY", 1)
        yield


@dataclass(frozen=True)
class Cluster:
    """A running API server. `request` speaks to it (or to `base`) with a bearer token."""

    port: int
    directory: Path
    binaries: Path

    @property
    def server(self) -> str:
        """Return the API server's address."""
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, token: str, server: str | None = None) -> Path:
        """Return a kubeconfig (as JSON) for `token`, for the API server or for `server`."""
        cluster: dict[str, str] = {"server": server or self.server}
        cluster["certificate-authority"] = str(self.directory / "tls.crt")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path = self.directory / f"kubeconfig-{token}-{abs(hash(server))}.json"
        path.write_text(json.dumps(config))
        return path

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = ADMIN,
        base: str | None = None,
        accept: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send one request; return status and body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request((base or self.server) + path, data=data, method=method)
        request.add_header("Accept", accept)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        context = ssl.create_default_context(cafile=str(self.directory / "tls.crt"))
        secure = request.full_url.startswith("https:")
        try:
            with urllib.request.urlopen(request, timeout=30, context=context if secure else None) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def write(self, method: str, path: str, body: Any = None) -> Any:
        """Write as administrator; the answer must be a success."""
        status, answer = self.request(method, path, body)
        assert status < 300, answer
        return json.loads(answer)

    def kubectl(self, *arguments: str, server: str | None = None) -> list[str]:
        """Return a kubectl command line for the API server or `server`."""
        return [str(self.binaries / "kubectl"), "--kubeconfig", str(self.kubeconfig(ADMIN, server)), *arguments]


def _api_server(directory: Path) -> ApiServer:
    """Return an API server with the certificate that agents serve with, too."""
    write_certificate(directory)
    users = {
        ADMIN: ("admin", "system:masters"),
        AGENT: (
            "system:serviceaccount:sitegrid-system:sitegrid-agent",
            "system:serviceaccounts,system:serviceaccounts:sitegrid-system",
        ),
        READER: ("reader", ""),
    }
    tls = (f"--tls-cert-file={directory}/tls.crt", f"--tls-private-key-file={directory}/tls.key")
    server = ApiServer(directory, users, *tls)
    server.ca = directory / "tls.crt"
    return server


def wait_until(condition: Any, seconds: float = 60, what: str = "the condition") -> Any:
    """Return the first true value of `condition()`; fail after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true in {seconds} s")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Boot etcd and kube-apiserver on loopback; the agent's account has what deploy/rbac gives it."""
    directory = tmp_path_factory.mktemp("cluster")
    server = _api_server(directory)
    running = Cluster(server.port, directory, server.programs)
    try:
        server.start()
        for document in yaml.safe_load_all(RBAC.read_text()):
            if document["kind"] in ("ClusterRole", "ClusterRoleBinding"):
                running.write("POST", f"/apis/rbac.authorization.k8s.io/v1/{document['kind'].lower()}s", document)
        yield running
    finally:
        # Nothing of it is kept, and a graceful end would wait for open watches.
        server.stop()
        shutil.rmtree(directory / "etcd-data", ignore_errors=True)


SLICES: Final = "/apis/discovery.k8s.io/v1/endpointslices"
SERVICES: Final = "/api/v1/services"
NODES: Final = "/api/v1/nodes"
SECRETS: Final = "/api/v1/secrets"
ENDPOINTS: Final = "/api/v1/endpoints"
KINDS: Final = {
    SLICES: ("EndpointSlice", "discovery.k8s.io/v1"),
    SERVICES: ("Service", "v1"),
    NODES: ("Node", "v1"),
    SECRETS: ("Secret", "v1"),
    ENDPOINTS: ("Endpoints", "v1"),
}


PLAIN: Final = {SERVICE_NAME: "plain", MANAGED_BY: ENDPOINTSLICE_CONTROLLER}


def plain_slice(name: str, address: str, **labels: str) -> dict[str, Any]:
    """Return an EndpointSlice of no grid (or with any labels)."""
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": "default", "labels": labels or PLAIN},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    }


def unit_slice(unit: str, address: str, service: str = "web") -> dict[str, Any]:
    """Return the unit slice of a service for `unit` (an id)."""
    labels = {
        UNIT: unit,
        UNIT_SERVICE_NAME: service,
        GRID_UNIQ_KEY: "zone",
        SERVICE_PROXY_NAME: SITEGRID,
        HEADLESS: "",
        MANAGED_BY: SITEGRID,
    }
    return plain_slice(f"{service}-{unit.lower()}", address, **labels)


def raw_slice(name: str, address: str, service: str = "web") -> dict[str, Any]:
    """Return a slice as Kubernetes' own controller makes it for a grid's Service: every unit's endpoints."""
    labels = {SERVICE_NAME: service, GRID_UNIQ_KEY: "zone", SERVICE_PROXY_NAME: SITEGRID}
    return plain_slice(name, address, **labels)


def node(name: str, **labels: str) -> dict[str, Any]:
    """Return a Node."""
    return {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}}


@dataclass(eq=False)
class _Watcher:
    """One open watch at the fake."""

    path: str
    selector: LabelSelector
    binary: bool
    events: asyncio.Queue[bytes | None]


class FakeApi:
    """An API server in a few lines: JSON, protobuf for metadata, streaming lists; its faults are attributes."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {path: {} for path in KINDS}
        self.rv = 100
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.streaming_lists = True
        self.expired_below = 0
        self.silent = False
        self.held: set[str] = set()
        self.refusals: dict[str, tuple[int, bytes]] = {}
        self.unknown: set[str] = set()
        """Authorization headers that are 401, whatever is asked."""
        self.watchers: list[_Watcher] = []
        self._held_events: list[tuple[_Watcher, bytes]] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen on `port`, which is reserved for it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Refuse connections and cut the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
            # A connection accepted just now is known after three turns of the loop (socket, transport, `_serve`).
            for _ in range(3):
                await asyncio.sleep(0)
        self.cut()
        await eventually(lambda: not self._writers)

    def cut(self) -> None:
        """Cut every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()
        for watcher in list(self.watchers):
            watcher.events.put_nowait(None)

    # Objects.
    def put(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        """Create or replace an object under a new resourceVersion, and tell the watches."""
        self.rv += 1
        meta = obj["metadata"]
        key = f"{meta.get('namespace', '')}/{meta['name']}"
        stored = {**obj, "metadata": {**meta, "resourceVersion": str(self.rv)}}
        old = self.objects[path].get(key)
        self.objects[path][key] = stored
        for watcher in self._watching(path):
            was = old is not None and watcher.selector.matches(old["metadata"].get("labels", {}))
            now = watcher.selector.matches(meta.get("labels", {}))
            if now:
                self._tell(watcher, "MODIFIED" if was else "ADDED", stored)
            elif was and old is not None:
                self._tell(
                    watcher, "DELETED", {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.rv)}}
                )
        return stored

    def delete(self, path: str, name: str, namespace: str = "default") -> None:
        """Delete an object and tell the watches."""
        self.rv += 1
        old = self.objects[path].pop(f"{namespace}/{name}")
        last = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.rv)}}
        for watcher in self._watching(path):
            if watcher.selector.matches(old["metadata"].get("labels", {})):
                self._tell(watcher, "DELETED", last)

    def bookmark(self) -> None:
        """Send a bookmark to every watch."""
        for watcher in self.watchers:
            self._tell(watcher, "BOOKMARK", self._empty(watcher.path))

    def send_raw(self, path: str, data: bytes) -> None:
        """Send bytes to the watches of `path`, whatever they are."""
        for watcher in self._watching(path):
            watcher.events.put_nowait(data)

    def hold(self, selector_part: str) -> None:
        """Keep the events of watches whose selector contains the text back until `release`."""
        self.held.add(selector_part)

    def release(self) -> None:
        """Send what was kept back."""
        self.held.clear()
        for watcher, data in self._held_events:
            watcher.events.put_nowait(data)
        self._held_events.clear()

    def _watching(self, path: str) -> list[_Watcher]:
        return [watcher for watcher in self.watchers if watcher.path == path]

    def _empty(self, path: str) -> dict[str, Any]:
        kind, version = KINDS[path]
        return {"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": str(self.rv)}}

    def _tell(self, watcher: _Watcher, event_type: str, obj: dict[str, Any]) -> None:
        data = self._event(watcher, event_type, obj)
        text = ",".join(f"{r.operator}{r.key}" for r in watcher.selector.requirements)
        if any(part in text for part in self.held):
            self._held_events.append((watcher, data))
        else:
            watcher.events.put_nowait(data)

    @staticmethod
    def _event(watcher: _Watcher, event_type: str, obj: dict[str, Any]) -> bytes:
        if not watcher.binary:
            return json.dumps({"type": event_type, "object": obj}).encode() + b"\n"
        body = protobuf.wrap("meta.k8s.io/v1", "PartialObjectMetadata", FakeApi._metadata(obj))
        return length_frame(protobuf.write_event(event_type, body))

    @staticmethod
    def _metadata(obj: dict[str, Any]) -> bytes:
        """Return an object of which there is nothing but its metadata."""
        meta = obj["metadata"]
        message = protobuf.write_bytes(1, meta.get("name", "").encode())
        message += protobuf.write_bytes(3, meta.get("namespace", "").encode())
        message += protobuf.write_bytes(6, meta["resourceVersion"].encode())
        for number, name in ((11, "labels"), (12, "annotations")):
            for key, value in meta.get(name, {}).items():
                entry = protobuf.write_bytes(1, key.encode()) + protobuf.write_bytes(2, value.encode())
                message += protobuf.write_bytes(number, entry)
        return protobuf.write_bytes(1, message)

    # HTTP.
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        self.requests.append((method, target, headers))
        if self.silent:
            await reader.read()
            return
        if headers.get("authorization") in self.unknown:
            self._reply(writer, 401, b'{"kind":"Status","code":401}')
            return
        path, _, query = target.partition("?")
        options = {name: values[0] for name, values in parse_qs(query).items()}
        if method == "GET" and (found := re.fullmatch(r"(/.*)/namespaces/([^/]+)(/\w+)", path)):
            path, options["namespace"] = found[1] + found[3], found[2]
        if path not in KINDS:
            await self._other(reader, writer, method, target, headers)
            return
        if refusal := self.refusals.get(target.partition("?")[0]):
            self._reply(writer, *refusal)
        elif options.get("watch") == "true":
            await self._watch(writer, path, options, headers)
        else:
            self._list(writer, path, options, headers)
        await writer.drain()

    @staticmethod
    def _reply(writer: asyncio.StreamWriter, status: int, body: bytes, media_type: str = "application/json") -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    def _selected(self, path: str, options: dict[str, str]) -> list[dict[str, Any]]:
        selector = LabelSelector(options.get("labelSelector", ""))
        name = options.get("fieldSelector", "").removeprefix("metadata.name=")
        return [
            obj
            for _, obj in sorted(self.objects[path].items())
            if selector.matches(obj["metadata"].get("labels", {}))
            and name in ("", obj["metadata"]["name"])
            and options.get("namespace") in (None, obj["metadata"].get("namespace"))
        ]

    def _list(
        self, writer: asyncio.StreamWriter, path: str, options: dict[str, str], headers: dict[str, str]
    ) -> None:
        kind, version = KINDS[path]
        items = self._selected(path, options)
        if "protobuf" in headers.get("accept", ""):
            message = protobuf.write_bytes(1, protobuf.write_bytes(2, str(self.rv).encode()))
            message += b"".join(protobuf.write_bytes(2, self._metadata(item)) for item in items)
            body = protobuf.wrap(version, f"{kind}List", message)
            self._reply(writer, 200, body, "application/vnd.kubernetes.protobuf")
            return
        meta = {"resourceVersion": str(self.rv)}
        found = {"kind": f"{kind}List", "apiVersion": version, "metadata": meta, "items": items}
        self._reply(writer, 200, json.dumps(found).encode())

    async def _watch(
        self, writer: asyncio.StreamWriter, path: str, options: dict[str, str], headers: dict[str, str]
    ) -> None:
        initial = options.get("sendInitialEvents") == "true"
        binary = "protobuf" in headers["accept"]
        if initial and not self.streaming_lists and path != NODES:
            self._reply(writer, 422, b'{"kind":"Status","code":422}')
            return
        watcher = _Watcher(path, LabelSelector(options.get("labelSelector", "")), binary, asyncio.Queue())
        media_type = "application/vnd.kubernetes.protobuf;stream=watch" if binary else "application/json"
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        if initial:
            for obj in self._selected(path, options):
                self._chunk(writer, self._event(watcher, "ADDED", obj))
            end = self._empty(path)
            end["metadata"]["annotations"] = {"k8s.io/initial-events-end": "true"}
            self._chunk(writer, self._event(watcher, "BOOKMARK", end))
        elif int(options["resourceVersion"]) < self.expired_below:
            status = {"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "too old"}
            self._chunk(writer, json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            writer.write(b"0\r\n\r\n")
            return
        else:
            self._replay(writer, watcher, path, options)
        self.watchers.append(watcher)
        try:
            while (event := await watcher.events.get()) is not None:
                self._chunk(writer, event)
                await writer.drain()
        finally:
            self.watchers.remove(watcher)

    def _replay(self, writer: asyncio.StreamWriter, watcher: _Watcher, path: str, options: dict[str, str]) -> None:
        """Send what was written since the client's resourceVersion (deletions are not kept: use 410)."""
        for obj in self._selected(path, options):
            if int(obj["metadata"]["resourceVersion"]) > int(options["resourceVersion"]):
                self._chunk(writer, self._event(watcher, "MODIFIED", obj))

    @staticmethod
    def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def _other(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        target: str,
        headers: dict[str, str],
    ) -> None:
        """Answer what is passed through: an echo, an upgrade, or one object of a guarded collection."""
        if headers.get("upgrade"):
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
            return
        found = next(
            (obj for kind in self.objects.values() for obj in kind.values() if self._is_at(obj, target)), None
        )
        if found is not None:
            self._reply(writer, 200, json.dumps(found).encode())
            return
        if length := headers.get("content-length"):
            body = await reader.readexactly(int(length))
        elif headers.get("transfer-encoding") == "chunked":
            body = await reader.readuntil(b"0\r\n\r\n")
        else:
            body = b""
        echo = {"method": method, "target": target, "headers": headers, "body": body.decode("latin-1")}
        self._reply(writer, 200, json.dumps(echo).encode())

    @staticmethod
    def _is_at(obj: dict[str, Any], target: str) -> bool:
        plural = obj["kind"].lower().removesuffix("s") + "s"
        meta = obj["metadata"]
        return target.partition("?")[0].endswith(f"/namespaces/{meta.get('namespace')}/{plural}/{meta['name']}")


class WatchStream:
    """A client's watch: `next` gives the next event but bookmarks (unless asked for)."""

    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._site = site
        self._reader = reader
        self._writer = writer
        self._buffer = b""

    async def next(self, *, bookmarks: bool = False) -> dict[str, Any]:
        """Return the next event; EOFError when the watch ended."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                event: dict[str, Any] = json.loads(line)
                if bookmarks or event["type"] != "BOOKMARK":
                    return event
                continue
            async with asyncio.timeout(20):
                size = int((await self._reader.readline()).strip() or b"0", 16)
                if not size:
                    raise EOFError
                self._buffer += (await self._reader.readexactly(size + 2))[:-2]
            self._site.received += self._buffer

    async def summary(self, count: int) -> list[tuple[str, str]]:
        """Return type and name of the next `count` events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in events]

    def close(self) -> None:
        """Hang up."""
        self._writer.transport.abort()


class Site:
    """An agent and its clients."""

    def __init__(self, server: Server, hub: Hub, metrics: Metrics, port: int) -> None:
        self.server = server
        self.hub = hub
        self.metrics = metrics
        self.port = port
        self.received = b""
        self._writers: list[asyncio.StreamWriter] = []

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        writer.write(data)
        return reader, writer

    async def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request on a connection of its own; return status, headers and body."""
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        reader, writer = await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        self.received += answer
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *others = head.decode("latin-1").split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
        return int(first.split(" ")[1]), found, rest

    async def get(self, path: str, accept: str = "application/json", **parameters: Any) -> tuple[int, Any]:
        """GET with query parameters; return status and the decoded JSON (or the bytes)."""
        target = f"{path}?{urlencode(parameters)}" if parameters else path
        status, headers, body = await self.request("GET", target, {"Accept": accept, **CLIENT})
        return status, json.loads(body) if headers.get("content-type", "").startswith("application/json") else body

    async def names(self, path: str, **parameters: Any) -> list[str]:
        """Return the names that a LIST shows."""
        status, body = await self.get(path, **parameters)
        assert status == 200, body
        return [item["metadata"]["name"] for item in body["items"]]

    async def watch(self, path: str, **parameters: Any) -> WatchStream:
        """Open a watch; the response must be 200."""
        target = f"{path}?{urlencode({'watch': 'true', **parameters})}"
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in CLIENT.items())]
        reader, writer = await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n")
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head
        return WatchStream(self, reader, writer)

    async def list_and_watch(self, path: str, **parameters: Any) -> tuple[list[str], WatchStream]:
        """LIST, then WATCH from its resourceVersion, as a client does."""
        status, body = await self.get(path, **parameters)
        assert status == 200, body
        rv = body["metadata"]["resourceVersion"]
        names = [item["metadata"]["name"] for item in body["items"]]
        return names, await self.watch(path, resourceVersion=rv, **parameters)

    def close(self) -> None:
        """Hang up everything."""
        for writer in self._writers:
            writer.transport.abort()


async def eventually(condition: Any, seconds: float = 60) -> None:
    """Wait until `condition()` is true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions are of many kinds, most without an event
            await asyncio.sleep(0.005)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """Give a running fake API server with node n1 in unit zone.u1."""
    fake = FakeApi()
    fake.put(NODES, node("n1", zone="u1", host="n1"))
    with reserve_port() as reserved:
        fake.port = reserved.getsockname()[1]
        await fake.start()
        yield fake
        await fake.stop()


@contextlib.asynccontextmanager
async def run_agent(
    credentials: Credentials,
    node_name: str = "n1",
    *,
    data_dir: Path | None = None,
    cache: str = DEFAULT,
    secrets: bool = False,
    port: int = 0,
) -> AsyncIterator[Site]:
    """Run an agent in this process; with a `data_dir` everything is on the disk when it has ended."""
    metrics = Metrics()
    upstream = Upstream(credentials)
    disk = Disk(data_dir, metrics) if data_dir is not None else None
    hub = Hub(node_name, upstream, metrics, disk)
    hub.authentication.heard(CLIENT["Authorization"], 200)
    server = Server(hub, upstream, metrics, parse_reads(cache, secrets=secrets))
    writing = None
    if disk is not None:
        upstream.start()
        writing = asyncio.create_task(disk.run(hub.source_keys, lambda: upstream.wan.up))
    listener = await server.listen("127.0.0.1", port)
    site = Site(server, hub, metrics, listener.sockets[0].getsockname()[1])
    try:
        yield site
    finally:
        site.close()
        listener.close()
        await server.close()
        hub.close()
        upstream.close()
        if writing is not None:
            writing.cancel()
            await asyncio.wait([writing])
        # Cancelled tasks end in the loop; the test's own loop must not end before them.
        own = [task for task in asyncio.all_tasks() if task.get_name().startswith(("client", "source"))]
        if own:
            await asyncio.wait(own, timeout=5)


@pytest.fixture
async def site(api: FakeApi, tmp_path: Path) -> AsyncIterator[Site]:
    """Give an agent for node n1 in front of the fake API server; its own token is `agents-own-token`."""
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
        "users": [{"name": "u", "user": {"token": "agents-own-token"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    async with run_agent(from_kubeconfig(str(tmp_path / "kubeconfig"))) as running:
        yield running


@pytest.fixture
def start_agent(api: FakeApi, tmp_path: Path) -> Any:
    """Give the function that starts an agent with a disk: each call is a restart, in front of the same fake."""

    def start(**settings: Any) -> contextlib.AbstractAsyncContextManager[Site]:
        return run_agent(Credentials(f"http://127.0.0.1:{api.port}"), **{"data_dir": tmp_path / "data", **settings})

    return start


@pytest.fixture(scope="session")
def objects() -> Any:
    """Give the constructors of test objects and the paths of collections."""

    class Objects:
        slices, services, nodes, endpoints = SLICES, SERVICES, NODES, ENDPOINTS
        plain = staticmethod(plain_slice)
        unit = staticmethod(unit_slice)
        raw = staticmethod(raw_slice)
        node = staticmethod(node)
        eventually = staticmethod(eventually)

    return Objects


@pytest.fixture
def certificates() -> Any:
    """Give the function that writes tls.crt and tls.key into a directory."""
    return write_certificate


@pytest.fixture(scope="session")
def cluster_agent(cluster: Cluster) -> Iterator[str]:
    """Run `sitegrid agent` for node n1 (unit zone.u1) at the real API server; give its address (TLS)."""
    cluster.write("POST", NODES, node("n1", zone="u1"))
    port, tls_port = free_port(), free_port()
    argv = [sys.executable, "-m", "sitegrid", "agent", "--node-name=n1", f"--kubeconfig={cluster.kubeconfig(AGENT)}"]
    argv += [f"--listen=127.0.0.1:{port}", f"--tls-listen=127.0.0.1:{tls_port}", "-v"]
    argv += [f"--tls-cert-file={cluster.directory}/tls.crt", f"--tls-private-key-file={cluster.directory}/tls.key"]
    process = start(argv, cluster.directory / "agent.log")

    def ready() -> bool:
        assert process.poll() is None, (cluster.directory / "agent.log").read_text()
        try:
            return cluster.request("GET", "/sitegrid/readyz", base=f"http://127.0.0.1:{port}")[0] == 200
        except OSError:
            return False

    try:
        wait_until(ready, what="the agent's /readyz")
        yield f"https://127.0.0.1:{tls_port}"
    finally:
        process.terminate()
        process.wait(15)


@pytest.fixture(scope="session")
def poll() -> Any:
    """Give the function that waits for a condition in tests without a loop."""
    return wait_until


@pytest.fixture
async def server(tmp_path: Path, certificates: Any) -> AsyncIterator[Http2Server]:
    """Give a running HTTP/2 server."""
    with reserve_port() as reserved:
        server = Http2Server(tmp_path, certificates, reserved.getsockname()[1])
        await server.start()
        yield server
        server.stop()


@pytest.fixture
async def upstream(server: Http2Server, objects: Any) -> AsyncIterator[Upstream]:
    """Give the agent's way to the HTTP/2 server."""
    upstream = Upstream(server.credentials())
    yield upstream
    upstream.close()
    await objects.eventually(lambda: all(connection.ended for connection in server.connections))
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith("source")]
    if tasks:
        await asyncio.wait(tasks, timeout=5)


@pytest.fixture
async def http2_site(server: Http2Server) -> AsyncIterator[Site]:
    """Give an agent in front of the HTTP/2 server."""
    async with run_agent(server.credentials()) as running:
        yield running
