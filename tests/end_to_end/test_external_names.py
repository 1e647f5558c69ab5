"""Names of what is outside: from the DNS answers a workload itself received, counted and timed; never a label by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.observed import Namespaces, eventually, run
from tests.running import flows_of, running

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
        assert not agent.broken_laws()


TLS_CLIENT = """
import socket, ssl, sys, time
def hello(name):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
for address, name, cuts in (("{0}", "whole.example.com", ()), ("{1}", "split.example.com", (9, 100, 130))):
    s = socket.create_connection((address, 443), timeout=5); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data, at = hello(name), 0
    for cut in (*cuts, len(data)):
        s.sendall(data[at:cut]); at = cut; time.sleep(0.05)
    time.sleep(0.5); s.close()
"""
TCP_DNS_CLIENT = """
import socket, struct, sys, time
sys.path[:0] = sys.argv[2:]
import dnslib
for name in ("big.example.com", "missing.example.com"):
    s = socket.create_connection((sys.argv[1], 53), timeout=5)
    packed = dnslib.DNSRecord.question(name).pack(); framed = struct.pack(">H", len(packed)) + packed
    s.sendall(framed[:5]); time.sleep(0.02); s.sendall(framed[5:])
    size = struct.unpack(">H", s.recv(2, socket.MSG_WAITALL))[0]; s.recv(size, socket.MSG_WAITALL)
    s.close()
socket.create_connection((sys.argv[1], 8443), timeout=5).close()
"""
TCP_DNS_SERVER = """
import sys
sys.path[:0] = sys.argv[2:]
import time
from dnslib import RR, RCODE
from dnslib.server import BaseResolver, DNSServer
class R(BaseResolver):
    def resolve(self, request, handler):
        reply = request.reply()
        if str(request.q.qname).startswith("missing"): reply.header.rcode = RCODE.NXDOMAIN
        else:
            for i in range(50): reply.add_answer(*RR.fromZone(f"{request.q.qname} 60 A 203.0.113.{i}"))
            reply.add_answer(*RR.fromZone(f"{request.q.qname} 60 A {sys.argv[1]}"))
        return reply
DNSServer(R(), address=sys.argv[1], port=53, tcp=True).start_thread()
time.sleep(60)
"""


def test_server_names_of_tls_whole_and_split(veth: Namespaces) -> None:
    """A server outside that nobody looked up by DNS: the ClientHello says its name, in one segment or in four."""
    second = veth.right_ip.rpartition(".")[0] + ".77"
    run("ip", "-n", veth.right, "addr", "add", f"{second}/24", "dev", "eth0")
    listen = (
        "import socket, time; l = socket.create_server(('0.0.0.0', 443)); c = [l.accept(), l.accept()]; time.sleep(60)"
    )
    outside = subprocess.Popen(["ip", "netns", "exec", veth.right, sys.executable, "-c", listen])
    try:
        with running() as agent:
            eventually(lambda: run("ip", "netns", "exec", veth.right, "ss", "-Hltn", "sport = :443"))
            code = TLS_CLIENT.replace("{0}", veth.right_ip).replace("{1}", second)
            assert agent.processes.start("client", ["ip", "netns", "exec", veth.left, sys.executable, "-c", code]).wait(30) == 0  # fmt: skip
            closed = eventually(lambda: (f := [x for x in flows_of(agent, "--to", ":443") if x["sidelight"]["kind"] == "close"]) and len(f) == 2 and f)  # fmt: skip
            names = {flow["IP"]["destination"]: (flow["destination_names"], flow["sidelight"]["destination_provenance"]) for flow in closed}  # fmt: skip
            assert names == {veth.right_ip: (["whole.example.com"], "sni"), second: (["split.example.com"], "sni")}
            assert agent.total("sidelight_seen_total", item="tls") == 2
            assert "example.com" not in agent.get("/metrics").decode(), "what the network says is no label"
            assert not agent.broken_laws()
    finally:
        outside.kill()
        outside.wait()


def test_dns_over_tcp_with_an_answer_of_many_addresses(veth: Namespaces) -> None:
    import dnslib

    library = str(Path(dnslib.__file__).parent.parent)
    enter = ("ip", "netns", "exec")
    server = subprocess.Popen([*enter, veth.right, sys.executable, "-c", TCP_DNS_SERVER, veth.right_ip, library])
    listen = f"import socket; l = socket.create_server(('{veth.right_ip}', 8443)); l.accept()"
    outside = subprocess.Popen([*enter, veth.right, sys.executable, "-c", listen])
    try:
        with running() as agent:
            for port in (53, 8443):
                eventually(lambda p=port: run(*enter, veth.right, "ss", "-Hltn", f"sport = :{p}"))  # type: ignore[misc]
            client = [*enter, veth.left, sys.executable, "-c", TCP_DNS_CLIENT, veth.right_ip, library]
            assert agent.processes.start("client", client).wait(30) == 0
            answers = eventually(lambda: (f := flows_of(agent, "--protocol", "dns")) and len(f) == 2 and f)
            assert [a["l7"]["dns"]["query"] for a in answers] == ["big.example.com.", "missing.example.com."]
            assert [a["l7"]["dns"].get("rcode", 0) for a in answers] == [0, 3]
            opened = eventually(lambda: flows_of(agent, "--to", ":8443"))
            assert opened[0]["destination_names"] == ["big.example.com"]
            assert opened[0]["sidelight"]["destination_provenance"] == "dns"
            assert not agent.broken_laws()
    finally:
        for process in (server, outside):
            process.kill()
            process.wait()
