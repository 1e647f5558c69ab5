"""The evaluator's verdicts enforced by nftables between real pods: what it says is cut is cut, what it says flows flows.

Six pods of three namespaces and a host outside, each a network namespace, around a router whose rules are made of the verdicts alone; TCP and
UDP, IPv4 and IPv6, named ports, ranges, ipBlocks with exceptions, both ends, three tiers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sidelight.analysis.policy.evaluate import Evaluator, Verdict
from sidelight.analysis.policy.model import End, Traffic
from tests.cluster.cluster import _ip, _nft, _run
from tests.observed import eventually
from tests.unit.analysis.policy.test_truth_tables import anp, banp, cnp, v1
from tests.unit.analysis.policy.world import cluster, end, policies

PEER = Path(__file__).resolve().parents[1] / "peers" / "reach.py"
PODS = ("x/a", "x/b", "x/c", "y/a", "y/b", "z/a")
ENDS = (*PODS, "world")
ASKED = (("TCP", 80), ("TCP", 81), ("TCP", 85), ("TCP", 8080), ("UDP", 53), ("UDP", 54))
OUTSIDE = {4: "198.51.100.10", 6: "2001:db8:ff::10"}
IN_X = "subject: {namespaces: {matchLabels: {team: red}}}"
SETS = {
    "namespaces, ports, ranges and names": v1("x", "podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: web}]}, {from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 80, endPort: 85}, {port: 53, protocol: UDP}]}]")
    + v1("y", "podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: odd}}}]}], egress: [{to: [{namespaceSelector: {matchLabels: {team: red}}}], ports: [{port: 80}]}]"),
    "blocks with exceptions": v1("x", "podSelector: {}, policyTypes: [Egress, Ingress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.2.0.2/32]}}]}, {to: [{ipBlock: {cidr: 'fd00::/16', except: ['fd00:3::/32']}}], ports: [{protocol: UDP}]}], ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}, {namespaceSelector: {}}]}]")
    + v1("y", "podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [198.51.100.0/25]}}, {ipBlock: {cidr: 'fd00:1::/32'}}]}]"),
    "three tiers": anp(1, f"{IN_X}, ingress: [{{action: Deny, from: [{{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{pod: b}}}}}}}}], ports: [{{portNumber: {{protocol: TCP, port: 80}}}}]}}, {{action: Allow, from: [{{namespaces: {{matchLabels: {{team: blue}}}}}}], ports: [{{portRange: {{protocol: UDP, start: 50, end: 53}}}}]}}, {{action: Pass, from: [{{namespaces: {{}}}}]}}]")
    + cnp("Admin", 2, "subject: {namespaces: {matchLabels: {team: blue}}}, egress: [{action: Deny, to: [{networks: [198.51.100.0/24, 'fd00:3::/32']}]}]")
    + v1("x", "podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]")
    + banp("subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {matchLabels: {team: red}}}]}, {action: Deny, from: [{namespaces: {}}]}]"),
}  # fmt: skip


@dataclass
class World:
    tag: str
    ends: dict[str, dict[int, End]]

    def netns(self, name: str) -> str:
        return f"{self.tag}{name.replace('/', '')}"

    def address(self, name: str, family: int) -> str:
        return str(self.ends[name][family].address)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    tag = f"sle{os.getpid() % 100000}"
    found = cluster()
    # every pod on a node of its own, none of which is here: nothing is allowed for being its own node's
    ends = {name: {4: end(found, name), 6: end(found, name, True)} for name in PODS}
    outside = {family: end(found, address) for family, address in OUTSIDE.items()}
    place = World(tag, ends | {"world": outside})
    names = [place.netns(name) for name in ENDS]
    servers: list[subprocess.Popen[bytes]] = []
    router = f"{tag}r"
    try:
        _ip("", *(f"netns add {name}" for name in (router, *names)))
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            _run("ip", "netns", "exec", router, "sysctl", "-q", setting)
        _ip(router, "link set lo up")
        for name, netns in zip(ENDS, names, strict=True):
            link = f"v{name.replace('/', '')}"
            v4, v6 = place.address(name, 4), place.address(name, 6)
            _ip(router, f"link add {link} type veth peer name eth0 netns {netns}", f"addr add 169.254.1.1/32 dev {link}",
                f"addr add fe80::1/64 dev {link} nodad", f"link set {link} up", f"route add {v4}/32 dev {link}", f"route add {v6}/128 dev {link}")  # fmt: skip
            _ip(netns, f"addr add {v4}/32 dev eth0", f"addr add {v6}/128 dev eth0 nodad", "link set eth0 up", "link set lo up",
                "route add 169.254.1.1/32 dev eth0", "route add default via 169.254.1.1 dev eth0", "route add ::/0 via fe80::1 dev eth0")  # fmt: skip
        servers = [
            subprocess.Popen(["ip", "netns", "exec", netns, sys.executable, "-I", str(PEER), "serve", json.dumps(ASKED)], stdout=subprocess.DEVNULL)
            for netns in names
        ]  # fmt: skip
        _nft(router, ["table inet verdicts", "delete table inet verdicts"])
        everything = json.dumps([[place.address(n, f), p, port] for n in ENDS for f in (4, 6) for p, port in ASKED])
        eventually(lambda: all(reach(place, "x/a", everything)), 20, "everybody answers without policies")
        yield place
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        for name in (router, *names):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def reach(world: World, source: str, asked: str) -> list[bool]:
    """Of each (address, protocol, port), whether somebody answers."""
    command = ["ip", "netns", "exec", world.netns(source), sys.executable, "-I", str(PEER), "ask", asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found: list[bool] = json.loads(done.stdout or "[false]")
    return found


@pytest.mark.parametrize("name", SETS)
def test_what_it_says_is_what_happens(world: World, name: str) -> None:
    evaluator = Evaluator(policies(SETS[name]), cluster())
    rules, expected = [], {}
    for source in ENDS:
        for destination in ENDS:
            if source == destination or (source == "world" and destination == "world"):
                continue
            for family in (4, 6):
                for protocol, port in ASKED:
                    traffic = Traffic(world.ends[source][family], world.ends[destination][family], port, protocol)
                    verdict = evaluator.decide(traffic).verdict
                    assert verdict is not Verdict.UNDEFINED
                    expected[source, destination, family, protocol, port] = verdict is Verdict.ALLOWED
                    if verdict is Verdict.ALLOWED:
                        ip = "ip" if family == 4 else "ip6"
                        rules.append(
                            f"{ip} saddr {traffic.source.address} {ip} daddr {traffic.destination.address} {protocol.lower()} dport {port} accept"
                        )
    assert len(expected) >= 200 and any(expected.values()) and not all(expected.values())
    _nft(f"{world.tag}r", [
        "table inet verdicts", "delete table inet verdicts", "table inet verdicts {", "chain forward {", "type filter hook forward priority 0; policy accept;",
        "ct state established,related accept", "meta l4proto ipv6-icmp accept", *rules, "meta l4proto tcp reject with tcp reset", "reject", "}", "}",
    ])  # fmt: skip
    wrong = []
    for source in ENDS:
        asked = [key for key in expected if key[0] == source]
        answers = reach(world, source, json.dumps([[world.address(d, f), p, port] for _, d, f, p, port in asked]))
        wrong += [
            (key, expected[key], answer) for key, answer in zip(asked, answers, strict=True) if answer != expected[key]
        ]
    assert not wrong, wrong[:10]


def test_own_nodes_play_no_part(world: World) -> None:
    """The cases above are of policies, not of the exception for a pod's own node."""
    pod = world.ends["x/a"][4].pod
    assert pod is not None and replace(pod, node="").title == pod.title and world.ends["x/a"][4].node is None
