"""Trials that tools ask about over HTTP: begun by the first question, looked at in a thread of their own, kept for a while after.

Argo Rollouts' web provider reads /verify (always 200; an inconclusive verdict must not be an error), Flagger's webhooks
/verify/confirm-promotion, /verify/rollback and /verify/rollout (200 or not), a Spinnaker webhook stage /verify.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.analysis.comparison import Settings
from sidelight.analysis.verdict import FAIL, PASS
from sidelight.exporter.verify.arms import Arms, arms_of
from sidelight.exporter.verify.options import settings_of
from sidelight.exporter.verify.trial import Source, Trial, summary

log = logging.getLogger("sidelight.verify")

MOST_TRIALS = 8
FORGOTTEN_AFTER_S = 600.0
KEPT_S = 3600.0
"""A trial that is over keeps its verdict for so long."""
MOST_BODY = 64 << 10
_OPTIONS = ("target", "baseline", "canary", "id")

Answer = tuple[HTTPStatus, str, bytes]
"""(status, content type, body)."""


@dataclass(slots=True)
class _Session:
    trial: Trial
    asked_at: float
    ended_at: float = 0.0
    problem: str = ""
    stop: threading.Event = field(default_factory=threading.Event)


class Sessions:
    """`open_source`: where a comparison's figures come from."""

    def __init__(self, open_source: Callable[[Arms, Settings], Source], token: bytes = b"") -> None:
        self._open_source = open_source
        self._token = token
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}

    def stop(self) -> None:
        with self._lock:
            for session in self._sessions.values():
                session.stop.set()

    @property
    def guarded(self) -> bool:
        """Does it take a token?"""
        return bool(self._token)

    def allowed(self, authorization: str) -> bool:
        """Is it the token, as a bearer's or as Basic's password? (Flagger's webhooks know http://user:token@host alone.)"""
        if not self._token:
            return True
        scheme, _, value = authorization.strip().partition(" ")
        given = value.strip().encode()
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given, self._token)

    def answer(self, target: str, authorization: str, body: bytes) -> Answer:
        """`target`: the request's, with its query."""
        if not self.allowed(authorization):
            return _json(HTTPStatus.UNAUTHORIZED, {"error": "the token is missing or wrong"})
        path, _, query = target.partition("?")
        try:
            if path == "/verify":
                return self._verdict(_asked(query, body))
            hook = path.removeprefix("/verify/")
            if hook in ("confirm-promotion", "rollback", "rollout"):
                return self._hook(hook, _flaggers(body) | _asked(query, b""))
        except ConfigError as error:
            return _json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except SidelightError as error:
            return _json(HTTPStatus.BAD_GATEWAY, {"error": str(error)})
        return _json(
            HTTPStatus.NOT_FOUND,
            {"error": "know /verify, /verify/confirm-promotion, /verify/rollback, /verify/rollout"},
        )

    def _verdict(self, asked: dict[str, str]) -> Answer:
        session = self._session(asked)
        return _json(HTTPStatus.OK, _document(session))

    def _hook(self, hook: str, asked: dict[str, str]) -> Answer:
        """Flagger's: 200 to confirm-promotion when it passes, to rollback when it fails, to rollout unless it fails."""
        document = _document(self._session(asked))
        verdict = document["verdict"]
        good = {"confirm-promotion": verdict == PASS, "rollback": verdict == FAIL, "rollout": verdict != FAIL}[hook]
        status = HTTPStatus.OK if good else HTTPStatus.PRECONDITION_FAILED
        return status, "text/plain; charset=utf-8", f"{verdict}: {document['sentence']}\n".encode()

    def _session(self, asked: dict[str, str]) -> _Session:
        """Raises ConfigError, or SidelightError when the source does not answer."""
        key = json.dumps(asked, sort_keys=True)
        with self._lock:
            found = self._known(key)
            if found is not None:
                return found
            self._make_room()
        arms = arms_of(*(_required(asked, name) for name in _OPTIONS[:3]))
        settings = settings_of({k: v for k, v in asked.items() if k not in _OPTIONS})
        trial = Trial(arms, self._open_source(arms, settings), settings, time.time)
        trial.start()  # without the lock: a source that takes its time keeps nobody else waiting
        with self._lock:
            found = self._known(key)
            if found is not None:
                return found  # somebody asked the same meanwhile
            self._make_room()
            found = self._sessions[key] = _Session(trial, time.time())
        threading.Thread(target=self._run, args=(found,), name="verify", daemon=True).start()
        return found

    def _known(self, key: str) -> _Session | None:
        """One that goes on, or whose verdict is kept."""
        now = time.time()
        for old, session in list(self._sessions.items()):
            if session.ended_at and now - session.ended_at > KEPT_S:
                del self._sessions[old]
        found = self._sessions.get(key)
        if found is not None:
            found.asked_at = now
        return found

    def _make_room(self) -> None:
        if len(self._sessions) < MOST_TRIALS:
            return
        over = [key for key, session in self._sessions.items() if session.ended_at]
        if not over:
            raise ConfigError(f"{MOST_TRIALS} comparisons go on already")
        del self._sessions[min(over, key=lambda key: self._sessions[key].ended_at)]

    def _run(self, session: _Session) -> None:
        trial = session.trial
        while not trial.ended and not session.stop.wait(trial.settings.interval_s):
            if time.time() - session.asked_at > FORGOTTEN_AFTER_S:
                session.problem = "nobody asked any more"
                break
            try:
                trial.look()
                session.problem = ""
            except SidelightError as error:
                session.problem = str(error)
                log.warning("verify %s: %s", trial.arms.target, error)
        session.ended_at = time.time()


def _document(session: _Session) -> dict[str, Any]:
    trial = session.trial
    verdict = trial.verdict
    if verdict is None:
        found: dict[str, Any] = {
            "verdict": "inconclusive", "pass": False, "fail": False, "inconclusive": True,
            "sentence": "Nothing can be said: it has only begun.", "metrics": [],
        }  # fmt: skip
    else:
        found = summary(verdict, trial.document())
    if session.problem and found["verdict"] == PASS:
        found |= {"verdict": "inconclusive", "pass": False, "inconclusive": True, "sentence": session.problem}
    return found | {"over": bool(session.ended_at), "problem": session.problem}


def _required(asked: dict[str, str], name: str) -> str:
    if not asked.get(name):
        raise ConfigError(f"{name} is missing: want target=NAMESPACE/NAME, baseline=SELECTOR, canary=SELECTOR")
    return asked[name]


def _asked(query: str, body: bytes) -> dict[str, str]:
    """Parameters of the query, and of a JSON body, which are the same. Raises ConfigError."""
    try:
        found = dict(urllib.parse.parse_qsl(query, max_num_fields=50))
    except ValueError as error:
        raise ConfigError(f"query: {error}") from None
    if body:
        for name, value in _object(body).items():
            if not isinstance(value, str | int | float):
                raise ConfigError(f"{name}: want text")
            found[str(name)] = str(value)
    return found


def _flaggers(body: bytes) -> dict[str, str]:
    """Parameters from what Flagger posts: its primary is the baseline, unless the webhook's metadata say otherwise."""
    posted = _object(body)
    name, namespace = posted.get("name"), posted.get("namespace")
    if not isinstance(name, str) or not isinstance(namespace, str):
        raise ConfigError("not what Flagger posts: name and namespace are missing")
    found = {
        "target": f"{namespace}/{name}",
        "baseline": f"workload={name}-primary",
        "canary": f"workload={name}",
        "id": str(posted.get("checksum", "")),
    }
    metadata = posted.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ConfigError("metadata: want a mapping")
    return found | {str(key): str(value) for key, value in metadata.items()}


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError("the body is not a JSON object")
    return found


def _json(status: HTTPStatus, document: dict[str, Any]) -> Answer:
    return status, "application/json", json.dumps(document).encode() + b"\n"


def read_token(path: Path | None) -> bytes:
    """The token of a file. Raises ConfigError."""
    if path is None:
        return b""
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if len(token) < 16:
        raise ConfigError(f"{path}: a token has 16 characters at least")
    return token
