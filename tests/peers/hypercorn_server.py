"""hypercorn: `hypercorn_server.py HOST PORT REPORT`; counts its requests."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

requests = 0


async def app(scope: Any, receive: Any, send: Any) -> None:
    global requests
    if scope["type"] != "http":
        return
    requests += 1
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello, this is hypercorn"})


async def main() -> None:
    config = Config()
    config.bind = [f"{sys.argv[1]}:{sys.argv[2]}"]
    config.h2_max_concurrent_streams = 1000
    config.keep_alive_max_requests = 1_000_000
    server = asyncio.create_task(serve(app, config))
    report = Path(sys.argv[3])
    while not server.done():
        report.with_suffix(".new").write_text(str(requests))
        report.with_suffix(".new").rename(report)
        await asyncio.sleep(0.05)


asyncio.run(main())
