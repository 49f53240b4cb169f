"""An API server for a client that does not know a label: what its selectors say of that label does not arrive.

Used by the end-to-end tests for proxies that do not honour ``service.kubernetes.io/service-proxy-name``. Run in a
node as ``python -I -S <this file> PORT KUBECONFIG [LABEL …]``, it listens on the node's loopback without TLS and asks
the server of the (JSON) kubeconfig with that one's credential; without a label, no selector by labels arrives at all.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import sys
import urllib.parse
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_OWN = {"host", "connection", "content-length", "accept-encoding"}
"""Headers that belong to one of the two connections."""


def without(path: str, labels: Sequence[str]) -> str:
    """Return a request's path whose label selector does not name `labels`, or has none where they are none."""
    location, _, query = path.partition("?")
    parameters = []
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if name == "labelSelector":
            kept = [part for part in value.split(",") if labels and part.strip("!").strip() not in labels]
            parameters.append((name, ",".join(kept)))
        else:
            parameters.append((name, value))
    return f"{location}?{urllib.parse.urlencode(parameters)}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _pass(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = self.server.connect()
        try:
            path = without(self.path, self.server.labels)
            upstream.request(self.command, path, body, {**headers, "Authorization": f"Bearer {self.server.token}"})
            answer = upstream.getresponse()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            # The body ends with the connection.
            self.send_header("Connection", "close")
            self.end_headers()
            while data := answer.read1(65536):
                self.wfile.write(data)
        finally:
            upstream.close()

    do_GET = do_POST = do_PUT = do_PATCH = _pass


class _Server(ThreadingHTTPServer):
    def __init__(self, port: int, kubeconfig: Path, labels: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.labels = labels
        self.token = config["users"][0]["user"]["token"]
        self._server = urllib.parse.urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)

    def connect(self) -> http.client.HTTPSConnection:
        """Return a new connection to the API server."""
        assert self._server.hostname is not None
        return http.client.HTTPSConnection(self._server.hostname, self._server.port, context=self._tls)


if __name__ == "__main__":
    _Server(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]).serve_forever()
