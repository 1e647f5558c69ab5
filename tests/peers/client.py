"""Sends a script of bytes over one connection after another: `client.py HOST PORT SCRIPT`.

The script is JSON: a list of connections, each a list of steps, which may have: "send" text ("times" n, "each" n bytes a
segment), "until" a text has come ("count" n times), "bytes" to read, "wait" seconds, "shutdown", "read": "eof", "abort" (RST).
"""

import json
import socket
import struct
import sys
import time


def main():
    host, port, script = sys.argv[1], int(sys.argv[2]), json.load(open(sys.argv[3]))
    for steps in script:
        sock = socket.create_connection((host, port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        closed = False
        for step in steps:
            if "send" in step:
                data = step["send"].encode("latin-1") * step.get("times", 1)
                size = step.get("each", len(data)) or 1
                try:
                    for start in range(0, len(data), size):
                        sock.sendall(data[start : start + size])
                except OSError:
                    closed = True
            if "until" in step:  # so many bytes that end with this text, or so many occurrences of it
                text, times = step["until"].encode("latin-1"), step.get("count", 1)
                while received.count(text) < times and not closed:
                    got = receive(sock)
                    closed = not got
                    received += got
            if "bytes" in step:
                while len(received) < step["bytes"] and not closed:
                    got = receive(sock)
                    closed = not got
                    received += got
                received = received[step["bytes"] :]
            if "wait" in step:
                time.sleep(step["wait"])
            if step.get("shutdown"):
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    closed = True
            if step.get("read") == "eof":
                while not closed:
                    got = receive(sock)
                    closed = not got
                    received += got
            if step.get("abort"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def receive(sock):
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


main()
