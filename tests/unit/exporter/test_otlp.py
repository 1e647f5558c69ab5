from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError
from sidelight.exporter.otlp import Baseline, delta_wanted
from sidelight.exporter.otlp_sender import sender


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=30))
def test_deltas_add_up_to_what_was_seen_whatever_the_backend_refuses(steps: list[tuple[int, bool]]) -> None:
    baseline = Baseline()
    seen, told, last_end = 0, 0.0, 0
    for now, (grows, accepted) in enumerate([*steps, (0, True)], 1):
        seen += grows
        grown, since = baseline.grown("requests", (("a", "b"),), np.array([float(seen)]), 0, now)
        if accepted:
            baseline.taken()
            told += float(grown[0])
            assert since == last_end, "intervals touch: no gap, no overlap"
            last_end = now
        else:
            baseline.refused()
    assert told == seen


def test_a_series_that_begins_anew_is_told_whole() -> None:
    baseline = Baseline()
    baseline.grown("requests", (), np.array([10.0]), 5, 100)
    baseline.taken()
    grown, since = baseline.grown("requests", (), np.array([3.0]), 150, 200)
    assert (grown[0], since) == (3.0, 150)


def test_the_standard_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4317/",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "tempo:4317",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=a, y=b",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_METRICS_EXPORTER": "none",
    }.items():
        monkeypatch.setenv(name, value)
    traces = sender("TRACES")
    assert traces and traces._insecure and traces._endpoint.endswith("tempo:4317")
    assert dict(traces._headers) == {"x-tenant": "a", "y": "b"}
    traces.shutdown()
    assert sender("METRICS") is None
    assert delta_wanted({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "Delta"}) and not delta_wanted({})
    with pytest.raises(ConfigError, match="TEMPORALITY"):
        delta_wanted({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "both"})


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://x"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")]
)
def test_a_bad_variable_is_said(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError):
        sender("TRACES")
