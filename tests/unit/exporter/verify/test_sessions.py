"""What controllers ask, without a network: who may, what is refused, how long a verdict is kept."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.analysis.comparison import Settings
from sidelight.analysis.readings import Interval
from sidelight.exporter.verify.arms import Arms
from sidelight.exporter.verify.sessions import MOST_TRIALS, Sessions, read_token
from tests.observed import eventually
from tests.unit.analysis.builders import exchanges, interval

QUERY = "/verify?target=shop/catalogue&baseline=version=v1&canary=version=v2&interval=1s&warm-up=0s"


class Source:
    """The canary fails one in ten."""

    name, past, exhausted = "a test", False, False

    def __init__(self, canary: int = 40) -> None:
        self._canary, self._number = canary, 0

    def start(self) -> Interval | None:
        return None

    def take(self, *, last: bool = False) -> list[Interval]:
        self._number += 10
        arms = {"baseline": {"b": exchanges(400)}, "canary": {"c": exchanges(400 - self._canary, self._canary)}}
        return [interval(self._number + i, arms) for i in range(10)]


def opened(arms: Arms, settings: Settings) -> Source:
    return Source()


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(opened)


def asked(sessions: Sessions, target: str, body: bytes = b"", authorization: str = "") -> tuple[int, dict[str, object]]:
    status, kind, answer = sessions.answer(target, authorization, body)
    return int(status), json.loads(answer) if kind == "application/json" else {"text": answer.decode()}


def test_a_verdict_comes_and_stays(sessions: Sessions) -> None:
    status, first = asked(sessions, QUERY)
    assert status == 200 and first["verdict"] == "inconclusive" and not first["pass"] and not first["fail"]
    eventually(lambda: asked(sessions, QUERY)[1]["fail"], 10, "it fails")
    assert asked(sessions, QUERY)[1]["over"]
    assert asked(sessions, QUERY + "&id=2")[1]["verdict"] == "inconclusive", "another rollout is another comparison"
    sessions.stop()


def test_flaggers_webhooks(sessions: Sessions) -> None:
    posted = {
        "name": "catalogue",
        "namespace": "shop",
        "phase": "Progressing",
        "checksum": "1",
        "metadata": {"interval": "1s", "warm-up": "0s"},
    }
    body = json.dumps(posted).encode()
    assert asked(sessions, "/verify/rollback", body)[0] == HTTPStatus.PRECONDITION_FAILED
    assert asked(sessions, "/verify/rollout", body)[0] == 200
    eventually(lambda: asked(sessions, "/verify/rollback", body)[0] == 200, 10, "it rolls back")
    assert asked(sessions, "/verify/rollout", body)[0] == asked(sessions, "/verify/confirm-promotion", body)[0] == 412
    assert "of requests failed" in str(asked(sessions, "/verify/rollback", body)[1]["text"])
    sessions.stop()


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        ("/verify", b"", 400), ("/verify?target=a/b", b"", 400), (QUERY + "&speed=9", b"", 400), (QUERY + "&" + "&".join(f"a{i}=1" for i in range(60)), b"", 400),
        ("/verify", b"[]", 400), ("/verify", b"{", 400), ("/verify", b'{"target": {}}', 400), ("/verify", b"[" * 50_000, 400),
        ("/verify/rollback", b"", 400), ("/verify/rollback", b'{"name": 1}', 400), ("/verify/rollback", b'{"name": "a", "namespace": "b", "metadata": 3}', 400),
        ("/verify/other", b"", 404), ('/verify?target=a/b"}&baseline=version=v1&canary=version=v2', b"", 400),
    ],
)  # fmt: skip
def test_what_is_refused(sessions: Sessions, target: str, body: bytes, status: int) -> None:
    found, document = asked(sessions, target, body)
    assert found == status and "error" in document


@given(st.binary(max_size=200), st.text(max_size=60))
def test_no_bytes_get_through_as_an_exception(body: bytes, query: str) -> None:
    sessions = Sessions(opened)
    for path in ("/verify?", "/verify/rollback?"):
        assert sessions.answer(path + query, "", body)[0] in (400, 404)


def test_a_source_that_does_not_answer() -> None:
    def away(arms: Arms, settings: Settings) -> Source:
        raise SidelightError("agent away")

    status, document = asked(Sessions(away), QUERY)
    assert status == 502 and document["error"] == "agent away"


def test_a_source_that_goes_away_is_no_pass() -> None:
    class Leaves(Source):
        def take(self, *, last: bool = False) -> list[Interval]:
            if self._number >= 100:
                raise SidelightError("gone")
            return super().take()

    sessions = Sessions(lambda arms, settings: Leaves(canary=0))
    target = QUERY + "&for=60s"
    asked(sessions, target)
    eventually(lambda: asked(sessions, target)[1]["problem"] == "gone", 25, "it is said")
    assert asked(sessions, target)[1]["verdict"] == "inconclusive"
    sessions.stop()


def test_so_many_at_once(sessions: Sessions) -> None:
    for number in range(MOST_TRIALS):
        assert asked(sessions, QUERY + f"&id={number}&for=5m")[0] == 200
    full, document = asked(sessions, QUERY + "&id=more")
    over = any(asked(sessions, QUERY + f"&id={number}&for=5m")[1]["over"] for number in range(MOST_TRIALS))
    assert full == 400 or over, document
    sessions.stop()


def test_tokens(tmp_path: Path) -> None:
    sessions = Sessions(opened, b"0123456789abcdef")
    basic = base64.b64encode(b"me:0123456789abcdef").decode()
    for authorization, may in (
        ("", False), ("Bearer 0123456789abcdef", True), ("bearer 0123456789abcdef", True), ("Bearer 0123456789abcdeF", False),
        (f"Basic {basic}", True), ("Basic ????", False), ("Basic " + base64.b64encode(b"0123456789abcdef").decode(), False), ("0123456789abcdef", False),
    ):  # fmt: skip
        assert sessions.allowed(authorization) == may, authorization
    assert asked(sessions, QUERY)[0] == 401
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "long").write_text("0123456789abcdef\n")
    with pytest.raises(ConfigError):
        read_token(tmp_path / "short")
    with pytest.raises(ConfigError):
        read_token(tmp_path / "none")
    assert read_token(tmp_path / "long") == b"0123456789abcdef" and read_token(None) == b""
