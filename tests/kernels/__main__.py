"""`python -m tests.kernels`: boots Debian's kernels in QEMU and runs the tests in them. `make test-kernels` is this.

--kernel NAME and --part NAME choose; --quick is the form that CI runs; --write writes bpf/verified.json and docs/kernels.md from the run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.golang import built
from tests.kernels import document, record
from tests.kernels.boot import Run, run
from tests.kernels.guests import GUESTS, Guest
from tests.kernels.images import boot, tree_archive
from tests.kernels.packages import CACHE, Apt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernel", action="append", choices=list(GUESTS), help="only this one; may be repeated")
    parser.add_argument("--part", action="append", help="only this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help="only what CI runs: that they load, and exact counts")
    parser.add_argument("--write", action="store_true", help="write bpf/verified.json and docs/kernels.md")
    parser.add_argument("--verbose", action="store_true", help="show the consoles")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="guests side by side (default 1)")
    options = parser.parse_args()
    chosen = [GUESTS[name] for name in options.kernel or GUESTS]
    apt = Apt()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        programs, tree = Path(scratch) / "programs.msgpack", Path(scratch) / "tree.tar"
        built("render")  # the guests have no compiler, and render the chart
        # in a process of its own: LLVM's memory goes with it
        subprocess.run([sys.executable, "-m", "sidelight.cli.main", "compile", "-o", str(programs)], check=True)
        tree_archive(tree, ((programs, "programs.msgpack"),))

        plans = [(g, tuple(options.part or (g.quick if options.quick else g.parts))) for g in chosen]
        files = {guest.name: boot(guest, apt, parts) for guest, parts in plans}  # one after the other: they share disks

        def one(plan: tuple[Guest, tuple[str, ...]]) -> tuple[Run, tuple[str, ...]]:
            guest, wanted = plan
            console = CACHE / f"console-{guest.name}.log"
            return run(
                guest, files[guest.name], tree, wanted, console, write=options.write, verbose=options.verbose
            ), wanted

        with ThreadPoolExecutor(options.at_once) as pool:
            runs = list(pool.map(one, plans))
    if options.write:
        for found, _ in runs:
            if "programs" in found.said and found.guest.machine == "amd64":
                record.write(record.version(found.said["kernel"]["release"]), found.said["programs"])
        document.keep([found for found, _ in runs])
    failed = 0
    for found, wanted in runs:
        for part in wanted:
            status, seconds = found.parts.get(part, (-1, 0.0))
            said = "passed" if status == 0 else "did not end" if status == -1 else f"failed with status {status}"
            print(f"{found.guest.name:12} {part:12} {said} in {seconds:.0f} s")
            failed += status != 0
        if not found.passed(wanted):
            print(f"{found.guest.name:12} console: {found.console}")
    print(f"{sum(len(wanted) for _, wanted in runs) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
