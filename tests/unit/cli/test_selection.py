"""Selectors as people type them."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError
from sidelight.cli.selection import Selection, duration_s, end_filter, moment


def test_forms() -> None:
    assert end_filter(":8080", "destination") == {"destination_port": ["8080"]}
    assert end_filter("10.0.0.0/8", "source") == {"source_ip": ["10.0.0.0/8"]}
    assert end_filter("pod:shop/web-1", "source") == {"source_pod": ["shop/web-1"]}
    assert end_filter("svc:shop/web", "destination") == {"destination_service": ["shop/web"]}
    assert end_filter("fd00::1", "source") == {"source_ip": ["fd00::1"]}
    filters = Selection(selectors=("web",), status=("5xx", "404"), path="/a.b").filters()
    assert len(filters) == 2 and list(filters[0].http_status_code) == ["5+", "404"]
    assert list(filters[0].http_path) == [r"^/a\.b"]
    both = Selection(sources=("a", "b"), destinations=(":80",)).filters()
    assert len(both) == 2 and all(list(f.destination_port) == ["80"] for f in both)


@pytest.mark.parametrize("bad", [":x", ":99999", "what:ever", "", "/"])
def test_nonsense_is_one_clear_error(bad: str) -> None:
    with pytest.raises(ConfigError):
        end_filter(bad, "source")


def test_times() -> None:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert duration_s("200ms") == 0.2 and duration_s("5m") == 300
    assert moment("5m", now).minute == 55
    for bad in ("fast", "5", "-5m"):
        with pytest.raises(ConfigError):
            duration_s(bad)


@given(st.text(max_size=30))
def test_any_text_is_a_filter_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        Selection(selectors=(text,), status=(text,)).filters()
