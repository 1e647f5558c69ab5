"""Raw samples to integers: resets, births, staleness, gaps, buckets that do not fit."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.analysis.readings import Key
from sidelight.exporter.verify.arms import arms_of
from sidelight.exporter.verify.prometheus import Api, Prometheus, matchers
from sidelight.exporter.verify.series import Series, along, readings

ARMS = arms_of("shop/catalogue", "version=v1", "version=v2,track=canary")
EDGES = [0.0, 5.0, 10.0]


def test_growth_along_the_edges() -> None:
    assert along([(-1.0, 100), (2, 103), (7, 110)], EDGES) == [0, 3, 10]
    assert along([(-1.0, 100), (2, 3), (7, 10)], EDGES) == [0, 3, 10], "a reset: it began again at zero"
    assert along([(3.0, 4), (7, 10)], EDGES) == [0, 4, 10], "born in between: all of it is new"
    assert along([], EDGES) == [0, 0, 0]
    assert along([(-1.0, 5)], EDGES) == [0, 0, 0], "nothing new is nothing"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.data())
def test_every_increment_counts_once(steps: list[int], data: st.DataObject) -> None:
    """Over any edges and resets, what was counted is what was added."""
    value, added, samples = 0, 0, [(0.0, 0.0)]
    for index, step in enumerate(steps):
        if data.draw(st.booleans()):
            value = 0
        value += step
        added += step
        # a restart that ends above where it was cannot be seen by anybody
        if value < samples[-1][1] or value - samples[-1][1] == step:
            samples.append((index + 1.0, float(value)))
        else:
            value, added = int(samples[-1][1]), added - step
            samples.append((index + 1.0, float(value)))
    assert along(samples, [0.0, len(steps) / 3, len(steps) + 1.0])[-1] == added


def histogram(arm: str, instance: str, counts: dict[str, list[int]], total: list[int], **labels: str) -> list[Series]:
    base = {
        "instance": instance,
        "source_workload": "web",
        "source_workload_namespace": "shop",
        "http_request_method": "GET",
    } | labels
    name = "http_server_request_duration_seconds"
    found = [
        Series(arm, base | {"__name__": f"{name}_bucket", "le": le}, list(zip((-1.0, 4.0, 9.0), values, strict=True)))
        for le, values in counts.items()
    ]
    found.append(Series(arm, base | {"__name__": f"{name}_count"}, list(zip((-1.0, 4.0, 9.0), total, strict=True))))
    return [Series(s.arm, s.labels, [(at, float(v)) for at, v in s.samples]) for s in found]


def test_histograms_by_arm_instance_and_outcome() -> None:
    good = histogram("canary", "a:1", {"0.1": [10, 12, 15], "1": [20, 24, 30], "+Inf": [20, 25, 32]}, [20, 26, 34])
    bad = histogram("canary", "a:1", {"0.1": [0, 1, 1], "1": [0, 1, 2], "+Inf": [0, 1, 2]}, [0, 1, 2], error_type="500")
    totals, bounds, problems = readings(good + bad, EDGES)
    assert bounds == (0.1, 1.0) and problems == ()
    key = Key("canary", "a:1", "served", "http", "shop/web GET", False)
    assert [list(found[key]) for found in totals] == [[0, 0, 0, 0], [2, 2, 1, 1], [5, 5, 2, 2]], (
        "the last: without a time"
    )
    assert list(totals[-1][key._replace(failed=True)]) == [1, 1, 0, 0]


def test_buckets_that_differ_are_refused() -> None:
    one = histogram("canary", "a:1", {"0.1": [0, 1, 1], "+Inf": [0, 1, 1]}, [0, 1, 1])
    other = histogram("baseline", "b:1", {"0.2": [0, 1, 1], "+Inf": [0, 1, 1]}, [0, 1, 1])
    with pytest.raises(ConfigError, match="different buckets"):
        readings(one + other, EDGES)


def test_missing_scrapes_are_said() -> None:
    samples = [(float(at), float(at)) for at in (0, 1, 2, 3, 4, 9, 10)]
    labels = {"__name__": "sidelight_tcp_retransmits_total", "instance": "a:1"}
    _, _, problems = readings([Series("canary", labels, samples)], EDGES)
    assert problems == ("scrapes of a:1 are missing, up to 5 s",)


def test_connections() -> None:
    def series(name: str, **labels: str) -> Series:
        return Series("canary", {"__name__": name, "instance": "a:1", **labels}, [(-1.0, 0.0), (4.0, 3.0), (9.0, 5.0)])

    totals, _, _ = readings(
        [
            series("sidelight_tcp_connections_closed_total", reason="fin_local"),
            series("sidelight_tcp_connections_closed_total", reason="rst_remote"),
            series("sidelight_tcp_segments_total", direction="transmit"),
            series("sidelight_tcp_segments_total", direction="receive"),
            series("sidelight_tcp_connections_opened_total", reporter="source"),
            series("sidelight_tcp_connections_opened_total", reporter="destination"),
            series("sidelight_tcp_connections_failed_total", reporter="source", reason="refused"),
            series("sidelight_tcp_connections_failed_total", reporter="source", reason="aborted"),
        ],
        EDGES,
    )
    found = {key.kind: list(counts) for key, counts in totals[-1].items()}
    assert found == {"ended": [10, 5], "sent": [5, 0], "dialled": [10, 5], "opened": [5, 0]}


def test_matchers() -> None:
    assert matchers(ARMS, ARMS.canary, "destination") == [
        'destination_workload_namespace="shop",destination_canonical_revision="v2",destination_label_track="canary",destination_workload="catalogue"',
        'destination_workload_namespace="shop",destination_canonical_revision="v2",destination_label_track="canary",destination_service_name="catalogue"',
    ]
    by_workload = arms_of("shop/catalogue", "workload=catalogue-primary", "workload=catalogue")
    assert matchers(by_workload, by_workload.baseline, "source") == [
        'source_workload_namespace="shop",source_workload="catalogue-primary"'
    ]


class Answers(BaseHTTPRequestHandler):
    body, status = b"{}", 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Answers], str]]:
    handler = type("Handler", (Answers,), {})
    found = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{found.server_address[1]}"
    found.shutdown()
    found.server_close()


def test_what_is_no_prometheus_is_said(server: tuple[type[Answers], str]) -> None:
    handler, url = server
    for status, body, said in (
        (200, b"<html>", "Expecting value"),
        (200, b"[]", "no answer of a Prometheus"),
        (200, json.dumps({"status": "error"}).encode(), "no answer of a Prometheus"),
        (400, json.dumps({"status": "error", "error": "parse error: no"}).encode(), "parse error: no"),
        (503, b"busy", "503"),
    ):
        handler.status, handler.body = status, body
        with pytest.raises(SidelightError, match=said):
            Prometheus(Api(url), ARMS, 5.0, since=0.0).start()
    with pytest.raises(SidelightError, match=r"127\.0\.0\.1:9"):
        Prometheus(Api("http://127.0.0.1:9"), ARMS, 5.0, since=0.0).start()


def test_an_empty_prometheus_has_intervals_without_counts(server: tuple[type[Answers], str]) -> None:
    handler, url = server
    handler.body = json.dumps({"status": "success", "data": {"result": []}}).encode()
    now: Any = [112.0]
    source = Prometheus(Api(url), ARMS, 5.0, since=100.0, until=121.0, clock=lambda: now[0])
    assert source.start() is None
    assert [interval.at for interval in source.take()] == [105.0, 110.0] and not source.exhausted
    now[0] = 130.0
    assert source.past and [interval.at for interval in source.take()] == [115.0, 120.0]
    assert source.exhausted and source.take() == []
