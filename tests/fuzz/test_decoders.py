"""Every decoder of foreign bytes, fed with mutations of real ones: none raises what it does not declare, hangs or grows.

Coverage-guided by what is kept: an input that runs a line nothing ran before joins the corpus for the rest of the run (sys.settrace
on the module under test), and those that ever broke something are files in corpus/. `SIDELIGHT_FUZZ=N` asks for N inputs a decoder.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import dnslib
import msgspec
import pytest
from google.protobuf.message import DecodeError

from sidelight.agent import decode, layout, wire
from sidelight.agent.errors import ConfigError
from sidelight.cli import config, recording, selection
from sidelight.exporter import field_mask, filters
from sidelight.exporter.proto import flow_pb2, observer_pb2
from sidelight.identity import cgroup_path, index, objects

INPUTS = int(os.environ.get("SIDELIGHT_FUZZ", "12000"))
CORPUS = Path(__file__).parent / "corpus"
TRACED = 40
"""One input in so many is run under the tracer, which is slow."""


def hello() -> bytes:
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="api.example.com").do_handshake()
    return outgoing.read()


def answer() -> bytes:
    reply = dnslib.DNSRecord.question("www.example.com").reply()
    reply.add_answer(*dnslib.RR.fromZone("www.example.com 60 CNAME a.b.net\na.b.net 30 A 1.2.3.4\na.b.net 30 AAAA ::1"))
    packed: bytes = reply.pack()
    return packed


def event(kind: int) -> bytes:
    sizes = {
        decode.REQUEST: layout.REQUEST_EVENT.itemsize,
        decode.DNS: layout.PAYLOAD_EVENT.itemsize,
        decode.TLS: layout.PAYLOAD_EVENT.itemsize,
    }
    raw = bytearray(sizes.get(kind, layout.EVENT.itemsize))
    raw[layout.EVENT.fields["type"][1]] = kind  # type: ignore[index]
    return bytes(raw)


POD = json.dumps({
    "metadata": {"name": "web-1", "namespace": "shop", "uid": "u", "labels": {"app": "web"}, "ownerReferences": [{"kind": "ReplicaSet", "name": "web-7d", "uid": "r", "controller": True}], "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"nodeName": "n1", "hostNetwork": False},
    "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "containerStatuses": [{"name": "m", "containerID": "containerd://" + "ab" * 32, "state": {"terminated": {"reason": "x"}}}]},
}).encode()  # fmt: skip


OBJECTS: dict[str, tuple[type, dict[str, Any]]] = {
    "pods": (objects.Pod, json.loads(POD)),
    "services": (objects.Service, {"metadata": {"name": "web", "namespace": "shop", "uid": "s"}, "spec": {"type": "ExternalName", "externalName": "a.b", "clusterIPs": ["10.96.0.1", "fd00::2"], "externalIPs": ["192.0.2.1"], "ports": [{"port": 80, "nodePort": 30080}]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}}}),
    "endpointslices": (objects.EndpointSlice, {"metadata": {"name": "web-x", "namespace": "shop", "uid": "e", "labels": {"kubernetes.io/service-name": "web"}}, "endpoints": [{"addresses": ["10.0.0.1"], "zone": "z", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "web-1", "uid": "u"}}], "ports": [{"port": 80}]}),
    "nodes": (objects.Node, {"metadata": {"name": "n1", "uid": "n", "labels": {"topology.kubernetes.io/zone": "z"}}, "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}}),
    "replicasets": (objects.OnlyMeta, {"metadata": {"name": "web-7d", "uid": "r", "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": "d", "controller": True}]}}),
}  # fmt: skip
ODD: list[Any] = [
    None,
    0,
    -1,
    1 << 70,
    1.5,
    True,
    "",
    "x" * 5000,
    "\0",
    "\u202e🦆",
    "10.0.0.1",
    "999.1.1.1",
    "fe80::1%eth0",
    [],
    [None],
    {},
    {"a": {}},
]
KNOWN = index.Index(tombstone_s=5)
_clock = iter(range(1, 1 << 40))


def an_object(data: bytes) -> None:
    """An object's JSON as bytes; and the same object with one or two of its values odd, chosen by the bytes. Into one long-lived index."""
    chance = random.Random(data)
    kind = chance.choice(list(OBJECTS))
    wanted, document = OBJECTS[kind]
    document = json.loads(json.dumps(document))
    for _ in range(chance.randrange(1, 3)):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.8:
                place = place[key]
                continue
            if chance.random() < 0.2:
                del place[key]
            else:
                place[key] = copy.deepcopy(chance.choice(ODD))
            break
    for raw in (data, json.dumps(document).encode("utf-8", "surrogatepass")):
        try:
            item = msgspec.json.decode(raw, type=wanted)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        now = float(next(_clock))
        KNOWN.put(kind, item, now)
        KNOWN.explain(b"\0" * 10 + b"\xff\xff\x0a\0\0\1", 80, now)
        if chance.random() < 0.5:
            KNOWN.remove(kind, item.metadata.uid, now + 0.5)
        assert sum(KNOWN.counts().values()) < 2000, "what is gone is forgotten"


def flow_request(data: bytes) -> None:
    """A GetFlowsRequest: filters and mask."""
    try:
        request = observer_pb2.GetFlowsRequest.FromString(data)
    except DecodeError:
        return
    try:
        wanted = filters.compile_filters(request.whitelist, request.blacklist)
        wanted(FLOW)
    except filters.FilterError:
        pass
    try:
        mask = field_mask.mask_tree(request.field_mask.paths, flow_pb2.Flow.DESCRIPTOR)
        field_mask.apply_mask(flow_pb2.Flow(), mask)
    except field_mask.MaskError:
        pass


FLOW = flow_pb2.Flow(uuid="x", source=flow_pb2.Endpoint(pod_name="web", namespace="shop", labels=["k8s:app=web"]))
REQUEST = observer_pb2.GetFlowsRequest(
    number=5,
    whitelist=[flow_pb2.FlowFilter(source_pod=["shop/web"], http_path=["^/a.*"], source_ip=["10.0.0.0/8"], source_label=["app in (web)"], http_status_code=["5+"], dns_query=["x"])],
).SerializeToString()  # fmt: skip


def a_file(read: Callable[[Path], Any], header: bytes = b"") -> Callable[[bytes], None]:
    directory = tempfile.mkdtemp(prefix="sidelight-fuzz-")

    def run(data: bytes) -> None:
        path = Path(directory) / "x"
        path.write_bytes(header + data)
        with contextlib.suppress(ConfigError):
            read(path)

    return run


def selectors(data: bytes) -> None:
    try:
        chosen = selection.Selection(selectors=tuple(data.decode("utf-8", "replace").split("\n")[:4]))
        chosen.filters()
    except ConfigError:
        pass


def streams() -> Callable[[bytes], None]:
    names, messages = wire.HelloStreams(), wire.DnsStreams()

    def run(data: bytes) -> None:
        number = len(data) % 50
        names.feed(number, len(data) * 7, data)
        messages.feed(number, len(data) * 7, data)

    return run


DECODERS: dict[str, tuple[ModuleType, Callable[[bytes], Any], list[bytes]]] = {
    "events": (decode, lambda data: decode.decode([data]), [event(kind) for kind in range(8)]),
    "request lines": (decode, decode.split_request_line, [b"GET /a/b?c=d HTTP/1.1\r\n", b"GET http://h:1/p HTTP/1.0", b"\x16\x03"]),
    "dns": (wire, wire.dns_message, [answer(), dnslib.DNSRecord.question("a.b").pack()]),
    "client hello": (wire, wire.server_name, [hello()]),
    "split messages": (wire, streams(), [answer(), hello()]),
    "kubernetes objects": (index, an_object, [POD]),
    "flow requests": (filters, flow_request, [REQUEST, b""]),
    "configuration": (config, a_file(config.read_file), [b"metrics: [http]\nslow: 0.5\ncidr-groups: {10.0.0.0/8: x}\n", b"max-series: 5\n"]),
    "recordings": (recording, a_file(lambda path: list(recording.read_all(path)), recording.MAGIC), [b"\x00" * 12]),
    "cgroup paths": (cgroup_path, lambda data: cgroup_path.parse_cgroup_path(data.decode("utf-8", "replace")), [b"/kubepods.slice/kubepods-pod" + b"a" * 32 + b".slice/cri-containerd-" + b"b" * 64 + b".scope"]),
    "selectors": (selection, selectors, [b"shop/web", b"pod:a/b", b":80", b"10.0.0.0/8", b"svc:x\ndns:*.a"]),
}  # fmt: skip


def mutated(seed: bytes, others: list[bytes], chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        kind, at = chance.randrange(7), chance.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = chance.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF, chance.randrange(256)))
        elif kind == 2:
            del data[at : at + chance.choice((1, 2, 16, 200))]
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 8, 64)))
        elif kind == 4:
            data[at:at] = data[at : at + chance.randrange(40)] * chance.choice((1, 2, 30))
        elif kind == 5:
            other = chance.choice(others)
            data[at:] = other[chance.randrange(len(other) + 1) :]
        elif len(data) >= 2:
            place = at % (len(data) - 1)
            data[place : place + 2] = chance.choice((b"\0\0", b"\xff\xff", b"\x7f\xff", b"\x00\x01"))
    return bytes(data[:4096])


def lines_of(module: ModuleType, run: Callable[[bytes], Any], data: bytes, seen: set[int]) -> bool:
    """Runs an input under the tracer: did it reach a line of the module that none had?"""
    before = len(seen)
    file = module.__file__

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        if frame.f_code.co_filename != file:
            return None
        seen.add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return len(seen) > before


@pytest.mark.parametrize("name", DECODERS)
def test_nothing_breaks(name: str) -> None:
    module, run, seeds = DECODERS[name]
    chance = random.Random(f"{name}/{os.environ.get('SIDELIGHT_FUZZ_SEED', '1')}")
    kept = [path.read_bytes() for path in sorted(CORPUS.glob(f"{name.replace(' ', '-')}-*"))]
    corpus = [*seeds, *kept]
    seen: set[int] = set()
    for data in corpus:
        lines_of(module, run, data, seen)
    for number in range(INPUTS):
        data = mutated(chance.choice(corpus), corpus, chance)
        try:
            if number % TRACED == 0:
                if lines_of(module, run, data, seen) and len(corpus) < 500:
                    corpus.append(data)
            else:
                run(data)
        except Exception:
            (CORPUS / f"{name.replace(' ', '-')}-{abs(hash(data)):x}").write_bytes(data)
            raise
    assert INPUTS * len(DECODERS) >= 100_000 or "SIDELIGHT_FUZZ" in os.environ
