"""In a guest: the programs load, and what the verifier had to do for each: instructions it walked, bytes of stack."""

from __future__ import annotations

import os
import platform
import sys

from sidelight.agent.errors import SidelightError, VerifierError
from sidelight.agent.loader import LoadRequest, cgroup2_root, load, unload
from tests.kernels import record
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
    programs = record.costs(report.verified, report.stack)
    say("programs", programs)
    complaints = record.complaints(record.version(platform.release()), programs)
    print("\n".join(complaints))
    return 1 if complaints and not os.environ.get("SIDELIGHT_WRITE") else 0


if __name__ == "__main__":
    sys.exit(main())
