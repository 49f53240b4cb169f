"""The kubelet's port: HTTPS on the node's InternalIP, for the API server alone.

`__main__` runs it. ``kubectl logs`` and ``exec`` come in here: the API server finds address and port in the Node's
status and shows the client certificate of `API_SERVER`; `server` answers. That module is loaded with the first
connection, because most nodes of a lab are never asked. Invariant: nobody else is answered, whatever the lab's
authority has signed for them. Held by ``tests/lab/test_kubelet_server.py``.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sitegrid.lab.kubelet.server import Server

PORT: Final = 10250
"""The kubelet's own (k8s.io/kubernetes/pkg/cluster/ports)."""
API_SERVER: Final = "kube-apiserver-kubelet-client"
"""Whose client certificate is let in; the API server's by this name on clusters of kubeadm."""


def server_context(certificate: Path, key: Path, client_ca: Path) -> ssl.SSLContext:
    """Return the TLS settings: our `certificate`, and none but clients that have one of `client_ca`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Listener:
    """Answers the API server about the pods in `pods_dir`."""

    def __init__(self, pods_dir: Path, context: ssl.SSLContext) -> None:
        self._pods_dir = pods_dir
        self._context = context
        self._server: Server | None = None

    async def run(self, address: str, port: int = PORT) -> None:
        """Listen until cancelled; then what is open is closed and the commands in it are ended."""
        listening = await asyncio.get_running_loop().create_server(self._protocol, address, port, ssl=self._context)
        try:
            await asyncio.Event().wait()
        finally:
            listening.close()
            if self._server is not None:
                await self._server.close()

    def _protocol(self) -> asyncio.BaseProtocol:
        if self._server is None:
            from sitegrid.lab.kubelet.server import Server

            self._server = Server(self._pods_dir)
        return self._server.protocol()
