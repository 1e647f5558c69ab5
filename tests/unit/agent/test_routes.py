from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError
from sidelight.agent.routes import MAX_STEPS, Templates, fold, folds, path_of, route

TEMPLATES = (
    "/users/me",
    "/users/{id}",
    "/users/{id}/orders/{order}",
    "/static/*",
    "/static/app.js",
    "/a/{x}/c",
    "/a/b/{y}",
)


def test_templates_the_first_match_wins() -> None:
    found = {
        path: Templates(TEMPLATES).match(path.encode())
        for path in (
            "/users/me", "/users/7", "/users/7/orders/9/", "/static/a/b.js", "/static", "/static/app.js", "/users", "/users/", "/",
            "/a/b/c", "/a/q/c", "/a/b/d", "/users/me/orders/1",
        )
    }  # fmt: skip
    assert found == {
        "/users/me": "/users/me", "/users/7": "/users/{id}", "/users/7/orders/9/": "/users/{id}/orders/{order}",
        "/static/a/b.js": "/static/*", "/static": "/static/*", "/static/app.js": "/static/*", "/users": "", "/users/": "", "/": "",
        "/a/b/c": "/a/{x}/c", "/a/q/c": "/a/{x}/c", "/a/b/d": "/a/b/{y}", "/users/me/orders/1": "/users/{id}/orders/{order}",
    }  # fmt: skip


def plainly(templates: tuple[str, ...], path: str) -> str:
    """What the templates mean, with no automaton."""
    for template in templates:
        pattern = re.escape(template.rstrip("/")).replace(r"/\*", "(/.*)?")
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", pattern)
        if re.fullmatch(pattern + "/?", path):
            return template
    return ""


_WORD = st.sampled_from(["a", "b", "users", "7"])
_PART = _WORD | st.just("{id}")
_TEMPLATE = st.builds(
    lambda parts, rest: "/" + "/".join([*parts, *(["*"] if rest else [])]),
    st.lists(_PART, min_size=1, max_size=4),
    st.booleans(),
)


@given(
    st.lists(_TEMPLATE, max_size=6).map(tuple), st.lists(_WORD, min_size=1, max_size=5).map(lambda p: "/" + "/".join(p))
)
def test_the_automaton_is_what_the_templates_mean(templates: tuple[str, ...], path: str) -> None:
    assert Templates(templates).match(path.encode()) == plainly(templates, path)


@pytest.mark.parametrize("template", ["users", "/a/*/b", "/a/{", "/a/x{id}", "/" + "x" * 200])
def test_a_bad_template_is_said(template: str) -> None:
    with pytest.raises(ConfigError, match="--http-route"):
        Templates((template,))


def test_too_many_templates_are_said() -> None:
    with pytest.raises(ConfigError, match=str(MAX_STEPS)):
        Templates(tuple(f"/a/{i}/b" for i in range(MAX_STEPS)))


@pytest.mark.parametrize(
    ("segment", "folded"),
    [
        (b"123", True), (b"550e8400-e29b-41d4-a716-446655440000", True), (b"cart", False), (b"deadbeef01", False), (b"", False),
        (b"deadbeefdeadbee1", True), (b"deadbeefdeadbeef", False), (b"a@b", True), (b"v1", False), (b"1-2", False),
    ],
)  # fmt: skip
def test_what_folds(segment: bytes, folded: bool) -> None:
    assert folds(segment) is folded


def test_paths_of_targets() -> None:
    assert path_of(b"/a?b#c") == b"/a" and path_of(b"/a b") == b"/a" and path_of(b"*") is None
    assert path_of(b"/" + b"a" * 190) is not None and path_of(b"/" + b"a" * 191) is None
    assert route(b"/users/7?x", Templates(), folding=True) == "/users/*" and fold(b"/" + b"a" * 128) is None
