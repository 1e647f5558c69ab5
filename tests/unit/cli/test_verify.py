"""What a person sees of a verdict: on the terminal, on the page, in JUnit."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from sidelight.agent.errors import SidelightError
from sidelight.analysis.comparison import Settings
from sidelight.analysis.explanations import explain
from sidelight.analysis.judge import judge
from sidelight.analysis.readings import Interval
from sidelight.analysis.wording import percent, round_number, span
from sidelight.cli.verify import _run
from sidelight.cli.verify_report import junit, page, plots
from sidelight.cli.verify_screen import PLOT_WIDTH, plot, rendered
from sidelight.exporter.verify.arms import arms_of
from sidelight.exporter.verify.trial import Trial
from tests.unit.analysis.builders import comparison, exchanges, interval, steady

DOCUMENTS = {
    "fail": lambda: steady((400, 1), (400, 40)),
    "pass": lambda: steady((4000, 1), (4000, 1)),
    "inconclusive": lambda: steady((100, 1), (20, 1)),
    "nothing": lambda: comparison([interval(0, {})]),
    "empty": lambda: comparison([]),
}


@pytest.fixture(params=DOCUMENTS)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENTS[request.param]()
    return found


def screen(document: dict[str, Any]) -> str:
    out = StringIO()
    Console(file=out, width=160, highlight=False).print(rendered(document, judge(document)))
    return out.getvalue()


def test_the_screen_says_it_in_words(document: dict[str, Any]) -> None:
    verdict = judge(document)
    said = screen(document)
    assert said.startswith("shop/catalogue: version=v2 beside version=v1")
    assert f"{verdict.verdict.upper()}  {verdict.sentence}"[:100] in said
    for reason in verdict.reasons:
        assert reason in said


def test_a_plot_stays_in_its_place() -> None:
    for metric in judge(steady((400, 1), (400, 40))).metrics:
        for scale in (0.0001, 0.01, 1.0):
            drawn = plot(metric, scale).plain
            assert len(drawn) == PLOT_WIDTH and "●" in drawn


def test_page_and_plots_are_well_formed_and_quote_names() -> None:
    arms = {"baseline": {"<b>": exchanges(400)}, "canary": {'<script>"&': exchanges(360, 40)}}
    document = comparison([interval(i, arms, stratum="<img>") for i in range(30)])
    verdict = judge(document)
    text = page(document, verdict)
    assert "<script" not in text and "<img" not in text and "FAIL" in text
    ET.fromstring(plots(document, verdict))
    for part in text.split("<svg ")[1:]:
        ET.fromstring("<svg " + part.split("</svg>")[0] + "</svg>")


def test_reports_of_every_kind(document: dict[str, Any]) -> None:
    verdict = judge(document)
    assert verdict.verdict.upper() in page(document, verdict)
    ET.fromstring(plots(document, verdict))


def test_junit(document: dict[str, Any]) -> None:
    verdict = judge(document)
    suite = ET.fromstring(junit(document, verdict))
    cases = suite.findall("testcase")
    assert int(suite.get("tests", "")) == len(cases) == len(verdict.metrics) + 1
    bad = int(suite.get("failures", "")) + int(suite.get("errors", ""))
    assert (bad == 0) == (verdict.verdict == "pass")


def test_a_source_that_is_away_for_once_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    class Source:
        name, past, exhausted = "a test", False, False
        looks = 0

        def start(self) -> None:
            return None

        def take(self, *, last: bool = False) -> list[Interval]:
            self.looks += 1
            if self.looks == 1:
                raise SidelightError("away")
            arms = {"baseline": {"b": exchanges(400)}, "canary": {"c": exchanges(300, 100)}}
            return [interval(10 * self.looks + i, arms) for i in range(10)]

    settings = Settings(interval_s=0.01, warm_up_s=0.0)
    trial = Trial(arms_of("shop/web", "version=v1", "version=v2"), Source(), settings, time.time)
    _run(trial, False, lambda: False)
    assert trial.verdict is not None and trial.verdict.verdict == "fail"
    assert "away; asking again" in capsys.readouterr().err


def test_every_metric_is_explained() -> None:
    for name in (
        "errors",
        "http.errors",
        "asked.redis.errors",
        "slow",
        "grpc.tail",
        "tcp.resets",
        "refused",
        "tcp.retransmits",
    ):
        paragraphs = explain(name)
        assert len(paragraphs) >= 3 and "alpha" in paragraphs[-1]
    assert "ask of others" in explain("asked.http.errors")[0] and "ask of others" not in explain("http.errors")[0]
    assert explain("10.1.2.3") == [] and explain("speed") == []


def test_numbers_as_people_write_them() -> None:
    assert [percent(x) for x in (0, 0.00012, 0.0123, 0.5, 1.0)] == ["0 %", "0.0120 %", "1.23 %", "50.0 %", "100 %"]
    assert [round_number(x) for x in (7, 99, 2345, 1_234_567)] == ["7", "99", "2,300", "1,200,000"]
    assert [span(x) for x in (0.4, 90, 840, 10_000)] == ["a second", "90 seconds", "14 minutes", "3 hours"]
