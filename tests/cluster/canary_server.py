"""A version of a service, as bad as it is told: `canary_server.py PORT BEHAVIOUR COUNT_FILE`; asyncio, for some thousand a second.

BEHAVIOUR is JSON: {"errors": share, "slow": share, "slow_s": seconds, "resets": share, "seed": number}. The counts file gets
{"answered": {status: n}, "reset": n} when it ends.
"""

import asyncio
import json
import os
import random
import signal
import socket
import struct
import sys

behaviour = json.loads(sys.argv[2])
chance = random.Random(behaviour.get("seed", os.getpid()))
answered: dict[str, int] = {}
reset = 0


async def serve(reader, writer):
    global reset
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            # most take one to four milliseconds
            pause = 0.001 + min(0.02, chance.expovariate(1000))
            if chance.random() < behaviour.get("slow", 0.0):
                pause = behaviour.get("slow_s", 0.2)
            await asyncio.sleep(pause)
            if chance.random() < behaviour.get("resets", 0.0):
                reset += 1
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            status = "500" if chance.random() < behaviour.get("errors", 0.0) else "200"
            answered[status] = answered.get(status, 0) + 1
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\nok\n".encode())
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def finish():
    with open(sys.argv[3], "w") as out:
        json.dump({"answered": answered, "reset": reset}, out)
    os._exit(0)


async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, finish)
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]), backlog=512)
    await server.serve_forever()


asyncio.run(main())
