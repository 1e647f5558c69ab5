"""The command line as people use it: stopped by Ctrl-C, piped, narrow, recording until the disk is full."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.end_to_end.test_agent import served
from tests.observed import eventually
from tests.running import SIDELIGHT, Running, running


def requests(agent: Running, port: int, count: int) -> None:
    url = f"http://127.0.0.1:{port}/len/[1-{count}]"
    assert agent.processes.start("curl", ["curl", "-s", "-o", "/dev/null", url]).wait(60) == 0


def command(agent: Running, *arguments: str) -> list[str]:
    name, *rest = arguments
    return [*SIDELIGHT, name, "--instance", agent.instance, *rest]


def test_tail_says_a_summary_at_ctrl_c(tmp_path: Path) -> None:
    with running() as agent:
        port = served(agent, tmp_path)
        tail = subprocess.Popen(command(agent, "tail", "--protocol", "http"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        time.sleep(1.5)
        requests(agent, port, 20)
        time.sleep(1.5)
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=20)
        assert tail.returncode in (0, 130)
        assert len(out.splitlines()) == 40, "both ends' reports"
        assert "Traceback" not in err and "40 flows: 40 requests; 0 failed; none missed" in err, err


def test_record_survives_a_kill_and_a_full_disk(tmp_path: Path) -> None:
    with running() as agent:
        port = served(agent, tmp_path)
        file = tmp_path / "incident.flows"
        recorder = subprocess.Popen(command(agent, "record", str(file), "--everything"), stderr=subprocess.PIPE)
        requests(agent, port, 30)
        # nothing more comes: what came is written within a second or so
        eventually(lambda: file.exists() and len(agent.cli("tail", "--file", str(file), "-o", "json", "--protocol", "http").stdout.splitlines()) == 60)  # fmt: skip
        recorder.kill()
        recorder.wait()
        lines = agent.cli("tail", "--file", str(file), "-o", "jsonpb", "--protocol", "http").stdout.splitlines()
        assert len(lines) == 60 and all("flow" in json.loads(line) for line in lines)
        small = tmp_path / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], check=True)
        try:
            full = subprocess.Popen(
                command(agent, "record", str(small / "x"), "--everything"), stderr=subprocess.PIPE, text=True
            )
            for _ in range(20):
                if full.poll() is not None:
                    break
                requests(agent, port, 300)
                time.sleep(0.5)
            said = full.communicate(timeout=30)[1]
            assert full.returncode == 2 and "No space left on device" in said and "flows are safe" in said, said
            safe = int(said.split(";")[1].split()[0])
            assert len(agent.cli("tail", "--file", str(small / "x"), "-o", "json").stdout.splitlines()) == safe > 0
        finally:
            subprocess.run(["umount", str(small)], check=True)


def screen(arguments: list[str], columns: int, seconds: float, keys: bytes = b"") -> str:
    """What a terminal of so many columns was sent."""
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    env = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"}
    process = subprocess.Popen(arguments, stdin=child, stdout=child, stderr=child, env=env, start_new_session=True)
    os.close(child)
    found = b""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if keys and time.monotonic() > end - seconds / 2:
            os.write(parent, keys)
            keys = b""
        try:
            found += os.read(parent, 65536)
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:
            break
    process.terminate()
    process.wait(10)
    os.close(parent)
    return found.decode("utf-8", "replace")


def test_colours_pipes_widths_and_completion(tmp_path: Path) -> None:
    with running() as agent:
        port = served(agent, tmp_path)
        requests(agent, port, 5)
        eventually(lambda: agent.total("http_server_request_duration_seconds_count") >= 5)
        piped = agent.cli("tail", "--no-follow", "--last", "10").stdout
        assert "\x1b[" not in piped and len(piped.splitlines()) == 10
        on_terminal = command(agent, "tail", "--no-follow", "--last", "10")
        assert "\x1b[" in screen(on_terminal, 120, 5)
        assert "\x1b[3" not in screen(["env", "NO_COLOR=1", *on_terminal], 120, 5)
        for columns in (80, 200):
            drawn = screen(command(agent, "top", "--interval", "0.5"), columns, 4, b"e")
            assert "server" in drawn, drawn[-500:]
        once = agent.cli("top", "-n", "1", "--interval", "0.3")
        assert once.returncode == 0 and "\x1b[" not in once.stdout
        env = {**os.environ, "_SIDELIGHT_COMPLETE": "bash_complete", "COMP_WORDS": f"sidelight tail --instance {agent.instance} se", "COMP_CWORD": "4"}  # fmt: skip
        completed = subprocess.run([sys.executable, "-m", "sidelight.cli.main"], env=env, capture_output=True, text=True, check=False)  # fmt: skip
        assert "server" in completed.stdout, completed
        for bad in (["--since", "yesterday"], ["--status", "seven"], ["--slower", "-1s"], ["pod:"]):
            done = agent.cli("tail", "--no-follow", *bad)
            assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.strip(), bad
