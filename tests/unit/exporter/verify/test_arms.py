from __future__ import annotations

import pytest

from sidelight.agent.errors import ConfigError
from sidelight.exporter.verify.arms import arms_of, selector_of


def test_what_people_write() -> None:
    arms = arms_of("shop/catalogue", "version=v1", "version=v2,track=canary")
    assert (arms.namespace, arms.name, arms.target, arms.names) == (
        "shop",
        "catalogue",
        "shop/catalogue",
        ("catalogue",),
    )
    assert arms.arm("catalogue", "v1", {}) == "baseline"
    assert arms.arm("catalogue", "v2", {"track": "canary"}) == "canary"
    assert arms.arm("catalogue", "v2", {}) == "" and arms.arm("catalogue", "", {"version": "v1"}) == "baseline"
    flagger = arms_of("shop/catalogue", "workload=catalogue-primary", "workload=catalogue")
    assert (
        flagger.names == ("catalogue", "catalogue-primary") and flagger.arm("catalogue-primary", "v9", {}) == "baseline"
    )
    assert arms_of("web", "workload=web-1", "workload=web-2").target == "web"
    assert str(selector_of("a=b, c.d/e=f-1")) == "a=b,c.d/e=f-1"


@pytest.mark.parametrize(
    ("target", "baseline", "canary"),
    [
        ("", "version=v1", "version=v2"), ("a/b/c", "version=v1", "version=v2"), ('shop/c"{}', "version=v1", "version=v2"),
        ("shop/c", "v1", "version=v2"), ("shop/c", "version=", "version=v2"), ("shop/c", "version=v1", "version=v1"),
        ("shop/c", "version=v1,version=v3", "version=v2"), ("shop/c", 'version=v1"}', "version=v2"), ("x" * 300, "a=b", "a=c"),
        ("shop/c", "a=" + "b" * 300, "a=c"),
    ],
)  # fmt: skip
def test_what_is_refused(target: str, baseline: str, canary: str) -> None:
    """Among it whatever could get out of a PromQL string."""
    with pytest.raises(ConfigError):
        arms_of(target, baseline, canary)
