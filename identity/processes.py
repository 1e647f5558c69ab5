"""Names of processes, from /proc: for what is neither a pod, nor a container, nor a systemd unit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

_INTERPRETERS = ("python", "node", "ruby", "perl", "bash", "sh", "dash", "php", "java", "deno", "bun")


def executable_name(pid: int, proc: Path = Path("/proc")) -> str:
    """The executable's name; for an interpreter, the name of the script or module it runs. Empty when the pid is gone."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        comm = (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""
    # a process may have written a title over its arguments: "nginx: master process /usr/sbin/nginx -c ..."
    first = words[0].decode("utf-8", "replace").split(" ")[0].rstrip(":") if words else ""
    program = Path(first).name or comm
    if program.rstrip("0123456789.").lower() in _INTERPRETERS:
        arguments = [word.decode("utf-8", "replace") for word in words[1:] if word]
        for index, argument in enumerate(arguments):
            if argument == "-m" and index + 1 < len(arguments):
                return arguments[index + 1]
            if argument in ("-c", "-e", "-"):
                break
            if not argument.startswith("-"):
                return Path(argument).stem or program
    return program


def common_name(pids: list[int], proc: Path = Path("/proc")) -> str:
    """The name most of the processes have; of a tie, the oldest process's."""
    names = [name for pid in sorted(pids)[:64] if (name := executable_name(pid, proc))]
    return Counter(names).most_common(1)[0][0] if names else ""
