"""In a guest: the programs load, and what the verifier had to do for each: instructions it walked, bytes of stack."""

from __future__ import annotations

import sys

from sidelight.agent.errors import SidelightError, VerifierError
from sidelight.agent.loader import LoadRequest, cgroup2_root, load, unload
from tests.kernels.inside import say


def main() -> int:
    cgroup = cgroup2_root() / "loaded"
    cgroup.mkdir()
    try:
        report = load(LoadRequest(str(cgroup), "loaded"))
    except VerifierError as error:
        print(error)
        print("\n".join(error.log))
        return 1
    except SidelightError as error:
        print(error)
        return 1
    finally:
        unload("loaded")
        cgroup.rmdir()
    programs = {name: {"instructions": count, "stack_bytes": report.stack[name]} for name, count in sorted(report.verified.items())}  # fmt: skip
    say("programs", programs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
