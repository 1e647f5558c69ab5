"""Asks a service so many times a second, a connection each time: `canary_load.py HOST PORT RATE SECONDS`. Prints what it saw."""

import asyncio
import json
import sys
import time

host, port, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
seen: dict[str, int] = {}


async def ask():
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 5)
        writer.write(b"GET /items HTTP/1.1\r\nHost: catalogue\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        await reader.readexactly(3)
        outcome = head.split(b" ")[1].decode()
        writer.close()
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        outcome = type(error).__name__
    seen[outcome] = seen.get(outcome, 0) + 1


async def main():
    began, sent, asking = time.monotonic(), 0, set()
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate:
            sent += 1
            task = asyncio.ensure_future(ask())
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.sleep(0.01)
    if asking:
        await asyncio.wait(asking)
    print(json.dumps(seen), flush=True)


asyncio.run(main())
