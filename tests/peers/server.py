"""An HTTP server on h11 that does what a path says, and counts what it did: `server.py HOST PORT REPORT`.

    /len/N  /chunked/N  /close/N  /status/N  /interim  /early  /drop  /reset  /upgrade  /slow/MS

Bodies are full of what looks like heads. SIGTERM writes the count and ends it.
"""

import json
import signal
import socket
import sys
import threading
import time
from collections import Counter

import h11

LURE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nGET /lure HTTP/1.1\r\nHost: lure\r\n\r\n5\r\n0\r\n\r\n"
counts = Counter()
accepted = 0
lock = threading.Lock()


def body_of(size):
    return (LURE * (size // len(LURE) + 1))[:size]


def note(method, status):
    with lock:
        counts[f"{method} {status}"] += 1


def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=65536)
    try:
        while True:
            request = read_request(sock, conn)
            if request is None:
                return
            if not answer(sock, conn, request):
                return
            conn.start_next_cycle()
    except h11.RemoteProtocolError:
        note("_OTHER", 400)
        try:
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            drain(sock)
        except OSError:
            pass
    except (OSError, h11.LocalProtocolError):
        pass
    finally:
        sock.close()


def drain(sock):
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(2)
    while sock.recv(65536):
        pass


def read_request(sock, conn):
    while True:
        event = conn.next_event()
        if event is h11.NEED_DATA:
            conn.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Request):
            return event
        elif isinstance(event, h11.ConnectionClosed):
            return None


def read_body(sock, conn):
    while True:
        event = conn.next_event()
        if event is h11.NEED_DATA:
            conn.receive_data(sock.recv(65536))
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)) or event is h11.PAUSED:
            return


def answer(sock, conn, request):
    method, path = request.method.decode(), request.target.decode("latin-1").split("?")[0]
    words = path.strip("/").split("/")
    known = (
        method
        if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT")
        else "_OTHER"
    )
    kind, number = words[0], int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    if method == "CONNECT":
        note(known, 200)
        sock.sendall(b"HTTP/1.1 200 Connected\r\n\r\n" + LURE)
        drain(sock)
        return False
    if kind == "early":
        note(known, 413)
        body = body_of(500)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 500\r\n\r\n" + body)
        read_body(sock, conn)
        # h11 has not been told of the answer: go on with a new state over what has come behind the body
        again = h11.Connection(h11.SERVER, max_incomplete_event_size=65536)
        again.receive_data(conn.trailing_data[0]) if conn.trailing_data[0] else None
        serve_again(sock, again)
        return False
    read_body(sock, conn)
    if kind == "drop":
        note(known, 0)
        return False
    if kind == "reset":
        note(known, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return False
    if kind == "upgrade":
        note(known, 101)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: lure\r\nConnection: Upgrade\r\n\r\n" + LURE)
        drain(sock)
        return False
    if kind == "slow":
        time.sleep(number / 1000)
    if kind == "interim":
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    status = number if kind == "status" else 200
    note(known, status)
    reply(sock, conn, method, kind, status, number if kind in ("len", "chunked", "close") else 5)
    return kind != "close"


def serve_again(sock, conn):
    while True:
        request = read_request(sock, conn)
        if request is None or not answer(sock, conn, request):
            return
        conn.start_next_cycle()


def reply(sock, conn, method, kind, status, size):
    headers = [("server", "h11"), ("x-filler", "content-length: 7")]
    if kind == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
    elif kind == "close":
        headers.append(("Connection", "close"))
    elif status not in (204, 304):
        headers.append(("Content-Length", str(size)))
    out = conn.send(h11.Response(status_code=status, headers=headers))
    body = body_of(size)
    if status not in (204, 304) and method != "HEAD":
        step = 777 if kind == "chunked" else 65536
        for start in range(0, len(body), step):
            out += conn.send(h11.Data(data=body[start : start + step]))
            if len(out) > 60000:
                sock.sendall(out)
                out = b""
    out += conn.send(h11.EndOfMessage())
    sock.sendall(out)


def main():
    host, port, report = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(512)

    def finish(*_):
        lock.acquire()  # whoever is not counted yet is not answered either
        with open(report + ".new", "w") as out:
            json.dump({"requests": dict(counts), "accepted": accepted}, out)
        import os

        os.rename(report + ".new", report)
        os._exit(0)

    signal.signal(signal.SIGTERM, finish)
    global accepted
    while True:
        sock, _ = listener.accept()
        accepted += 1
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


main()
