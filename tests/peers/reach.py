"""Answers on ports, or asks who answers: `reach.py serve [[protocol, port], ...]`, `reach.py ask [[address, protocol, port], ...]`."""

import asyncio
import json
import socket
import sys


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


async def greet(reader, writer):
    writer.write(b"+")
    await writer.drain()
    writer.close()


async def serve(ports):
    loop = asyncio.get_running_loop()
    for protocol, port in ports:
        for host in ("0.0.0.0", "::"):
            if protocol == "TCP":
                await asyncio.start_server(greet, host, port)
            else:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                one = socket.socket(family, socket.SOCK_DGRAM)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind((host, port))
                await loop.create_datagram_endpoint(Echo, sock=one)
    await asyncio.Event().wait()


async def tcp(address, port):
    reader, writer = await asyncio.open_connection(address, port)
    answer = await reader.read(1)
    writer.close()
    return answer == b"+"


async def udp(address, port):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        one.connect((address, port))
        await loop.sock_sendall(one, b"?")
        return await loop.sock_recv(one, 10) == b"?"


async def ask(address, protocol, port):
    try:
        return await asyncio.wait_for((tcp if protocol == "TCP" else udp)(address, port), 3)
    except (TimeoutError, OSError):
        return False


async def main():
    what, argument = sys.argv[1], json.loads(sys.argv[2])
    if what == "serve":
        await serve(argument)
    else:
        print(json.dumps(await asyncio.gather(*(ask(*one) for one in argument))))


asyncio.run(main())
