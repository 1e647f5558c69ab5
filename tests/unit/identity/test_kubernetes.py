from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from sidelight.identity.kubernetes import HttpTransport, read_access
from tests.cluster.apiserver import ApiServer


def test_a_certificate_that_is_not_to_be_verified_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """insecure-skip-tls-verify: one line of ours, and none of urllib3's for every request."""
    api = ApiServer(tmp_path)
    api.start()
    try:
        access = replace(read_access(str(api.kubeconfig()), tmp_path / "credentials"), verify=False, ca_file="")
        with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.WARNING):
            warnings.simplefilter("always")
            transport = HttpTransport(access, None)
            for _ in range(3):
                transport.get("/api/v1/pods", {}, metadata_only=False, timeout_s=5).close()
    finally:
        api.stop()
    assert [str(warning.message) for warning in said] == []
    assert len([r for r in caplog.records if "insecure-skip-tls-verify" in r.getMessage()]) == 1
