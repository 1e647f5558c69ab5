"""Names of what is outside: from the DNS answers a workload itself received, counted and timed; never a label by themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.observed import Namespaces, eventually, run
from tests.running import running

DNS_SERVER = """
import socket, sys
sys.path[:0] = sys.argv[2:]
import dnslib
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 53))
while True:
    data, peer = s.recvfrom(2048)
    query = dnslib.DNSRecord.parse(data)
    reply = query.reply()
    name = str(query.q.qname)
    if name.startswith("missing"):
        reply.header.rcode = 3
    else:
        reply.add_answer(*dnslib.RR.fromZone(f"{name} 60 CNAME edge.example.net.\\nedge.example.net. 60 A {sys.argv[1]}"))
    s.sendto(reply.pack(), peer)
"""
CLIENT = """
import socket, sys
sys.path[:0] = sys.argv[2:]
import dnslib
for connected in (True, False):
    for name in ("pay.example.com", "missing.example.com"):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
        packed = dnslib.DNSRecord.question(name).pack()
        if connected:
            s.connect((sys.argv[1], 53)); s.send(packed)
        else:
            s.sendto(packed, (sys.argv[1], 53))
        s.recv(2048)
socket.create_connection((sys.argv[1], 8443), timeout=5).close()
"""


def test_dns_names_what_a_workload_dials(veth: Namespaces) -> None:
    import dnslib

    library = str(Path(dnslib.__file__).parent.parent)
    with running() as agent:
        enter = ("ip", "netns", "exec")
        agent.processes.start("dns", [*enter, veth.right, sys.executable, "-c", DNS_SERVER, veth.right_ip, library])
        listen = f"import socket; l = socket.create_server(('{veth.right_ip}', 8443)); l.accept()"
        agent.processes.start("outside", [*enter, veth.right, sys.executable, "-c", listen])
        eventually(lambda: run(*enter, veth.right, "ss", "-Hlun", "sport = :53"))
        eventually(lambda: run(*enter, veth.right, "ss", "-Hltn", "sport = :8443"))
        client = [*enter, veth.left, sys.executable, "-c", CLIENT, veth.right_ip, library]
        assert agent.processes.start("client", client).wait(30) == 0
        eventually(lambda: agent.total("dns_lookup_duration_seconds_count") == 4)
        assert agent.total("dns_lookup_duration_seconds_count", dns_response_code="NXDOMAIN") == 2
        assert agent.total("sidelight_seen_total", item="dns_queries") == 4

        def flows(*arguments: str) -> list[dict[str, dict[str, object]]]:
            said = agent.cli("tail", "--since", "1m", "--no-follow", "-o", "json", *arguments).stdout
            return [json.loads(line)["flow"] for line in said.splitlines()]

        answers = eventually(lambda: (f := flows("--protocol", "dns")) and len(f) == 4 and f)
        assert {flow["l7"]["dns"]["query"] for flow in answers} == {"pay.example.com.", "missing.example.com."}  # type: ignore[index]
        opened = [f for f in flows("--to", ":8443", "--role", "client") if f["sidelight"]["kind"] == "open"]
        # both ends are observed here, so the cgroup names the server; the name the workload dialled is known all the same
        assert opened
        known = json.loads(agent.cli("explain", veth.right_ip, "-o", "json").stdout)
        assert any(c["source"] == "dns" and c["name"] == "pay.example.com" for c in known["candidates"])
        assert known["chosen"]["provenance"] == "none"  # this question is of no workload, so nobody's names apply
        assert "example.com" not in agent.get("/metrics").decode()
        assert agent.audit()["holds"]
