from __future__ import annotations

import pytest

from sidelight.agent.errors import ConfigError
from sidelight.analysis.comparison import Settings
from sidelight.analysis.evidence import Tolerance
from sidelight.exporter.verify.options import settings_of


def test_flags_queries_and_metadata_are_one_list() -> None:
    found = settings_of({
        "for": "10m", "interval": "2s", "warm-up": "0s", "alpha": "1%", "beta": "0.1", "unit": "pod", "expected-share": "10%", "slower-than": "250ms",
        "max-error-increase": "x2+1pp", "max-share-increase": "1pp", "tolerance.http.errors": "x3", "advisory": "tail,resets",
    })  # fmt: skip
    assert found == Settings(
        alpha=0.01, beta=0.1, interval_s=2.0, for_s=600.0, warm_up_s=0.0, unit="pod", expected_share=0.1, slower_than_s=0.25,
        tolerances={"errors": Tolerance(2.0, 0.01), "slow": Tolerance(1.0, 0.01), "tail": Tolerance(1.0, 0.01), "http.errors": Tolerance(3.0)},
        advisory=("tail", "resets"),
    )  # fmt: skip
    assert settings_of({}) == Settings()


@pytest.mark.parametrize(
    "asked",
    [
        {"speed": "1"}, {"for": "soon"}, {"for": "100h"}, {"interval": "10ms"}, {"alpha": "2"}, {"alpha": "x"}, {"unit": "node"},
        {"max-error-increase": "x0.5"}, {"tolerance.speed": "x2"}, {"tolerance.": "x2"}, {"advisory": "speed"}, {"single-look": "maybe"},
        {"single-look": "true"}, {"single-look": "true", "for": "1m", "max-error-increase": "1pp"},
    ],
)  # fmt: skip
def test_what_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        settings_of(asked)
    assert len(str(error.value).splitlines()) == 1
