"""Holds many idle connections: `holder.py listen|connect PORT COUNT`. Says "held" when it has all of them."""

import resource
import socket
import sys
import time

role, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
if role == "listen":
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    print("listening", flush=True)
    while len(held) < count:
        held.append(listener.accept()[0])
else:
    while len(held) < count:
        held.append(socket.create_connection(("127.0.0.1", port)))
print("held", flush=True)
time.sleep(3600)
