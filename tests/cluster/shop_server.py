"""A service of the test cluster's shop: answers, calls others first, fails one in N: `shop_server.py PORT CALLS COUNT_FILE`."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

calls = json.loads(sys.argv[2])
count = 0
patience = float(os.environ.get("SIDELIGHT_PATIENCE", "1"))
lock = threading.Lock()


def call(target):
    kind, host, port = target.split(":")
    if kind == "redis":
        with socket.create_connection((host, int(port)), timeout=5 * patience) as connection:
            connection.sendall(b"*2\r\n$4\r\nINCR\r\n$1\r\nx\r\n")
            connection.recv(100)
        return
    connection = http.client.HTTPConnection(host, int(port), timeout=5 * patience)
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global count
        with lock:
            count += 1
            fails = calls.get("fail") and count % calls["fail"] == 0
        try:
            for target in calls.get("/", []):
                call(target)
        except OSError:
            fails = True
        body = b"no\n" if fails else b"ok\n"
        self.send_response(500 if fails else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def finish(*_):
    with open(sys.argv[3], "w") as out:
        out.write(str(count))
    os._exit(0)


signal.signal(signal.SIGTERM, finish)
ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
