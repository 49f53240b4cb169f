"""The controller's own HTTP endpoint: /healthz, /readyz and /metrics.

/readyz says what is not observed yet, by name, so that a missing CustomResourceDefinition is seen there. Held by
``tests/controller/test_walkthrough.py``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


@asynccontextmanager
async def serve(
    host: str, port: int, registry: CollectorRegistry, unready: Callable[[], list[str]]
) -> AsyncIterator[int]:
    """Serve on `host` and `port` (0: any free one) and give the port; `unready` tells what /readyz waits for."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        causes = unready()
        return web.Response(text="\n".join(causes or ["ok"]) + "\n", status=503 if causes else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            # asyncio's own text tells the address once more.
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {why}") from error
        addresses = runner.addresses
        yield int(addresses[0][1])
    finally:
        await runner.cleanup()
