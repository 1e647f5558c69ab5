"""Both ends of a conversation over one connection: `talker.py HOST PORT SCRIPT server|client`.

The script is JSON: {"turns": [[who, hexadecimal bytes]...], "each": bytes a segment, 0 for all}. Each end says its turns once it has
read all that came before.
"""

import json
import os
import socket
import sys
import time


def main():
    host, port, file, me = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
    script = json.load(open(file))
    if me == "server":
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        print("ready", flush=True)
        sock, _ = listener.accept()
    else:
        sock = socket.create_connection((host, port), timeout=60)
    sock.settimeout(60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for who, data in script["turns"]:
        if who == "wait":  # for somebody to make this file
            if me == "client":
                open(data + ".waits", "w").close()
            while not os.path.exists(data):
                time.sleep(0.01)
            continue
        data = bytes.fromhex(data)
        if who == me:
            size = script["each"] or len(data)
            for start in range(0, len(data), size):
                sock.sendall(data[start : start + size])
        else:
            left = len(data)
            while left:
                got = sock.recv(min(left, 65536))
                if not got:
                    sys.exit("ended early")
                left -= len(got)
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass
    sock.close()


main()
