"""The kubelets' tokens: the lab issues them, and the API server asks here whose one is.

A kubelet behind an agent needs a token, since an agent cannot pass a client certificate on; and the Node authorizer
wants a user that no ServiceAccount can be, ``system:node:NAME``. The API server reads a token file only when it
starts, and nodes join later, so it asks by webhook (TokenReview, authentication.k8s.io/v1). Only the cloud's loopback
is listened on, where no node gets. Invariant: a token is one node's; what was not issued is nobody's.
Held by ``tests/lab/test_nodetokens.py``.
"""

from __future__ import annotations

import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class NodeTokens:
    """Issues tokens, and answers for them from a thread of its own."""

    def __init__(self) -> None:
        self._tokens: dict[str, str] = {}

    def of(self, node: str) -> str:
        """Return the token of the kubelet of `node`, the same one each time."""
        return self._tokens.setdefault(node, secrets.token_urlsafe())

    def review(self, token: str) -> dict[str, Any]:
        """Return the status of a TokenReview."""
        for node, own in list(self._tokens.items()):
            if secrets.compare_digest(own.encode(), token.encode()):
                return {
                    "authenticated": True,
                    "user": {"username": f"system:node:{node}", "groups": ["system:nodes"]},
                }
        return {"authenticated": False}

    def serve(self, address: str) -> ThreadingHTTPServer:
        """Answer TokenReviews at `address` (HOST:PORT; port 0: any) until closed or the process ends."""
        review = self.review

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Answer one TokenReview."""
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps({**asked, "status": review(asked["spec"]["token"])}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Write no access log."""

        host, _, port = address.rpartition(":")
        server = ThreadingHTTPServer((host, int(port)), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server
