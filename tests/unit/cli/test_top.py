"""What `top` shows: each edge once, in the user's order, drilled down by keys."""

from __future__ import annotations

from typing import Any

from sidelight.cli.rates import rates
from sidelight.cli.top import View, select_rows


def edge(reporter: str, source: str, destination: str, port: int, ok: int, failed: int = 0) -> dict[str, Any]:
    return {
        "reporter": reporter, "source": source, "destination": destination, "service": "", "port": port,
        "statuses": {"200": ok, "500": failed}, "buckets": {"40": ok + failed}, "rtt": {}, "opened": 1,
    }  # fmt: skip


BEFORE = {"at": 10.0, "edges": [edge("destination", "a", "b", 8080, 10)]}
AFTER = {
    "at": 12.0,
    "edges": [
        edge("destination", "a", "b", 8080, 30, 2),
        edge("source", "a", "b", 80, 32),
        edge("source", "b", "c", 80, 100),
    ],
}


def test_each_edge_once_with_rates_of_the_interval() -> None:
    rows = select_rows(rates(BEFORE, AFTER), View("", "rate", "both"))
    assert [(row.key[0], row.key[1], row.rate) for row in rows] == [("source", "b", 50.0), ("destination", "a", 11.0)]
    assert rows[1].errors == 2 and rows[1].p99_s > 0
    assert len(select_rows(rates(BEFORE, AFTER), View("", "rate", "source"))) == 2


def test_keys() -> None:
    view = View("", "rate", "both")
    rows = select_rows(rates(BEFORE, AFTER), view)
    view.press("e", rows)
    assert view.sort == "errors"
    view.press("\n", rows)
    assert view.name == "c"
    view.press("\x7f", rows)
    assert view.name == ""
    for key in "/b\n":
        view.press(key, rows)
    assert view.name == "b" and view.typing is None
    view.press("q", rows)
    assert view.done
