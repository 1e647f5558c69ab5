from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError
from sidelight.exporter.routes import MAX_ROUTES, OTHER, Routes


def test_templates_first_match_wins() -> None:
    routes = Routes(("/users/me", "/users/{id}", "/users/{id}/orders/{order}", "/static/*"))
    found = {
        p: routes.route(p) for p in ("/users/me", "/users/7", "/users/7/orders/9/", "/static/a/b.js", "/users", "/")
    }
    assert found == {
        "/users/me": "/users/me", "/users/7": "/users/{id}", "/users/7/orders/9/": "/users/{id}/orders/{order}",
        "/static/a/b.js": "/static/*", "/users": "", "/": "",
    }  # fmt: skip


@pytest.mark.parametrize("template", ["users", "/a/*/b", "/a/{", "/a/x{id}"])
def test_a_bad_template_is_said(template: str) -> None:
    with pytest.raises(ConfigError, match="--http-route"):
        Routes((template,))


def test_the_heuristic() -> None:
    routes = Routes(heuristic=True)
    for path, route in {
        "/users/123": "/users/{id}",
        "/o/550e8400-e29b-41d4-a716-446655440000/x": "/o/{id}/x",
        "/cart": "/cart",
        "/f/deadbeef01": "/f/{id}",
        "/a/b/c/d/e": "/a/b/c/*",
        "/q/%2e%2e": "/q/{id}",
    }.items():
        assert routes.route(path) == route


@given(st.lists(st.text(max_size=40).map(lambda s: "/" + s), max_size=50))
def test_any_path_makes_a_bounded_number_of_routes(paths: list[str]) -> None:
    routes = Routes(heuristic=True)
    found = {
        routes.route(path) for path in [*paths, *(f"/p{chr(97 + i % 26)}{chr(97 + i // 26)}x" for i in range(600))]
    }
    assert len(found) <= MAX_ROUTES + 1 and OTHER in found
