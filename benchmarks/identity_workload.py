"""Pods of benchmarks/identity_accuracy: one process forks a child a pod lifetime, into its cgroup and network namespace.

Reads orders as JSON lines, answers with what each client did: the truth that names are compared with. Runs in no observed cgroup.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import socket
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)


def enter(order: dict) -> None:
    with open(order["cgroup"] + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    with open(f"/run/netns/{order['netns']}") as namespace:
        if libc.setns(namespace.fileno(), 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")


def serve(order: dict) -> None:
    """HTTP on the order's port: every answer is the pod's name, so that a client knows who answered. Ends when its stdin's parent says."""
    answer = order["pod"].encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(answer), answer)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", order["port"]))
    listener.listen(512)
    listener.settimeout(0.05)
    end = time.time() + order["seconds"]
    ready = os.open(order["report"], os.O_WRONLY | os.O_CREAT)
    os.close(ready)
    while time.time() < end:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        try:
            connection.settimeout(1.0)
            connection.recv(1024)
            connection.sendall(answer)
        except OSError:
            pass
        connection.close()


def ask(order: dict) -> None:
    """Requests in turn to the targets, each on a connection of its own and with its own number in the path."""
    done = []
    end = time.time() + order["seconds"]
    number, count = order["first"], 0
    while time.time() < end and count < order["most"]:
        host, port = order["targets"][count % len(order["targets"])]
        connection = socket.socket()
        connection.settimeout(1.0)
        try:
            connection.connect((host, port))
            connection.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
            data = b""
            while part := connection.recv(4096):
                data += part
            done.append((number, data.partition(b"\r\n\r\n")[2].decode()))
        except OSError:
            pass
        connection.close()
        number += 1
        count += 1
        time.sleep(order["pause"])
    with open(order["report"] + ".new", "w") as report:
        json.dump(done, report)
    os.rename(order["report"] + ".new", order["report"])


def main() -> None:
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    children = {}
    pending = b""
    os.set_blocking(0, False)
    while True:
        if selector.select(0.02):
            data = os.read(0, 1 << 16)
            if not data:
                break
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                order = json.loads(line)
                child = os.fork()
                if child == 0:
                    try:
                        enter(order)
                        time.sleep(order["start"])  # the kubelet's sandbox, the runtime, the program itself
                        (serve if order["serves"] else ask)(order)
                    finally:
                        os._exit(0)
                children[child] = order["id"]
        while children:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            print(children.pop(pid), flush=True)
    for child in children:
        os.kill(child, 15)


main()
