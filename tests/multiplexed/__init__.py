"""HTTP/2 and gRPC against the servers' own counts: every server by every shape of load. `python -m tests.multiplexed`."""
