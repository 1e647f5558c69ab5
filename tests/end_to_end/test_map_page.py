"""The map page in a real browser."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.end_to_end.test_agent import served
from tests.observed import eventually
from tests.running import running

CHROMIUM = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=8000"]  # fmt: skip


def test_the_map_draws_itself_and_is_honest_about_names(tmp_path: Path) -> None:
    with running() as agent:
        served(agent, tmp_path, "/len/10", "/status/500", "/len/20")
        eventually(lambda: agent.total("http_server_request_duration_seconds_count") >= 3)
        url = f"http://127.0.0.1:{agent.port}/map"
        picture = tmp_path / "map.png"
        common = [*CHROMIUM, f"--user-data-dir={tmp_path}/profile", "--window-size=1100,600"]
        done = subprocess.run([*common, "--dump-dom", url], capture_output=True, text=True, timeout=90, check=False)
        page = done.stdout
        assert 'class="node"' in page and 'class="edge bad' in page, done.stderr[-500:]
        assert ">server<" in page and ">curl<" in page
        assert "% errors" in page and ">live<" in page and "2 workloads, 1 edges" in page
        subprocess.run([*common, f"--screenshot={picture}", url], capture_output=True, timeout=90, check=False)
        assert picture.stat().st_size > 5000
        # outside loopback it is off unless asked for, and never loads anything from elsewhere
        text = agent.get("/map").decode()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
