"""The filter engine against a naive evaluator, and what it refuses."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.exporter.field_mask import MaskError, apply_mask, mask_tree
from sidelight.exporter.filters import FilterError, compile_filter, compile_filters
from sidelight.exporter.proto import flow_pb2 as pb

NAMES = ("web", "cart", "web-1")
IPS = ("10.0.0.1", "10.0.1.2", "fd00::1")


def make_flow(
    source: str, destination: str, namespace: str, ip: str, port: int, code: int, verdict: int, egress: bool
) -> pb.Flow:
    flow = pb.Flow(verdict=verdict, traffic_direction=pb.EGRESS if egress else pb.INGRESS, node_name="n1")  # type: ignore[arg-type]
    flow.is_reply.value = False
    for end, name in ((flow.source, source), (flow.destination, destination)):
        end.namespace, end.pod_name = namespace, name
        end.workloads.add(name=name, kind="Deployment")
        end.labels.append(f"k8s:app={name}")
        end.identity = 300 + NAMES.index(name)
    flow.IP.source = flow.IP.destination = ip
    flow.IP.ipVersion = pb.IPv6 if ":" in ip else pb.IPv4
    flow.l4.TCP.source_port, flow.l4.TCP.destination_port = 40000, port
    if code:
        flow.l7.http.code, flow.l7.http.method, flow.l7.http.url = code, "GET", f"http://{destination}/a/{code}"
    return flow


flows = st.builds(
    make_flow, st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from(["shop", "default"]), st.sampled_from(IPS),
    st.sampled_from([80, 443]), st.sampled_from([0, 200, 404, 500]), st.sampled_from([1, 2]), st.booleans(),
)  # fmt: skip
filters = st.builds(
    lambda parts: pb.FlowFilter(**dict(parts)),
    st.lists(
        st.sampled_from(
            [
                ("source_workload", [pb.Workload(name="web")]),
                ("destination_pod", ["shop/"]),
                ("destination_pod", ["shop/web"]),
                ("source_pod", ["web"]),
                ("source_ip", ["10.0.0.0/24"]),
                ("destination_ip", ["fd00::1", "10.0.1.2"]),
                ("destination_port", ["80"]),
                ("http_status_code", ["4+", "500"]),
                ("http_path", ["^/a/2"]),
                ("verdict", [pb.DROPPED]),
                ("traffic_direction", [pb.EGRESS]),
                ("destination_label", ["app in (web, cart)"]),
                ("source_label", ["k8s:app!=web"]),
                ("ip_version", [pb.IPv6]),
                ("source_identity", [300]),
                ("protocol", ["http"]),
                ("reply", [True]),
            ]
        ),
        max_size=3,
    ),
)


def naive(wanted: pb.FlowFilter, flow: pb.Flow) -> bool:
    """Field by field, as the documentation of FlowFilter reads."""

    def one(name: str, values: Any) -> bool:
        end = flow.source if name.startswith("source") else flow.destination
        if name.endswith("_workload"):
            return any(v.name == w.name for v in values for w in end.workloads)
        if name.endswith("_pod"):
            return any(
                end.namespace == (v.split("/")[0] if "/" in v else "default")
                and end.pod_name.startswith(v.split("/")[-1])
                for v in values
            )
        if name.endswith("_ip"):
            return any(ipaddress.ip_address(flow.IP.source) in ipaddress.ip_network(v) for v in values)
        if name == "destination_port":
            return str(flow.l4.TCP.destination_port) in values
        if name == "http_status_code":
            code = str(flow.l7.http.code)
            return bool(flow.l7.http.code) and any(code[0] == v[0] if "+" in v else code == v for v in values)
        if name == "http_path":
            return flow.l7.http.url.split("/", 3)[-1].startswith("a/2")
        if name == "verdict":
            return flow.verdict in values
        if name == "traffic_direction":
            return flow.traffic_direction in values
        app = end.pod_name
        if name == "destination_label":
            return app in ("web", "cart")
        if name == "source_label":
            return app != "web"
        if name == "ip_version":
            return flow.IP.ipVersion in values
        if name == "source_identity":
            return end.identity in values
        if name == "protocol":
            return flow.l7.WhichOneof("record") == "http"
        return flow.is_reply.value in values

    return all(one(field.name, list(values)) for field, values in wanted.ListFields())


@given(st.lists(filters, max_size=3), st.lists(filters, max_size=2), flows)
@settings(max_examples=400, deadline=None)
def test_against_a_naive_evaluator(allow: list[pb.FlowFilter], deny: list[pb.FlowFilter], flow: pb.Flow) -> None:
    expected = (not allow or any(naive(f, flow) for f in allow)) and not any(naive(f, flow) for f in deny)
    assert compile_filters(allow, deny)(flow) == expected


@pytest.mark.parametrize(
    ("wanted", "unsupported"),
    [
        (pb.FlowFilter(source_ip=["nonsense"]), False),
        (pb.FlowFilter(http_path=["("]), False),
        (pb.FlowFilter(http_status_code=["99999"]), False),
        (pb.FlowFilter(source_label=["a in b"]), False),
        (pb.FlowFilter(source_port=["x"]), False),
        (pb.FlowFilter(http_header=[pb.HTTPHeader(key="a")]), True),
        (pb.FlowFilter(experimental=pb.FlowFilter.Experimental(cel_expression=["true"])), True),
    ],
)
def test_refusals(wanted: pb.FlowFilter, unsupported: bool) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(wanted)
    assert caught.value.unsupported is unsupported


def test_many_filters_are_refused() -> None:
    with pytest.raises(FilterError, match="more than"):
        compile_filters([pb.FlowFilter()] * 10_000, [])


def test_field_masks() -> None:
    flow = make_flow("web", "cart", "shop", "10.0.0.1", 80, 200, 1, True)
    tree = mask_tree(["source.pod_name", "l7.http", "verdict", "destination.workloads.name"], pb.Flow.DESCRIPTOR)
    apply_mask(flow, tree)
    assert flow.source.pod_name == "web" and not flow.source.labels and not flow.HasField("IP")
    assert flow.l7.http.code == 200 and flow.destination.workloads[0].name == "cart"
    assert not flow.destination.workloads[0].kind
    assert mask_tree(["auth_type", "policy_match_type", "verdict"], pb.Flow.DESCRIPTOR) == {"verdict": {}}
    for bad in (["nope"], ["source.nope"], ["verdict.x"], ["a"] * 1000):
        with pytest.raises(MaskError):
            mask_tree(bad, pb.Flow.DESCRIPTOR)
