"""What can go wrong, typed. The command line prints each as one line and exits with status 2."""

from __future__ import annotations


class SidelightError(Exception):
    """Base of the errors that are shown to a user as one line."""


class DecodeError(SidelightError):
    """Bytes that are not what they should be."""


class UnsupportedFeature(SidelightError):
    """Something this kernel or these privileges do not allow: says what is missing and what still works."""


class BpfError(SidelightError):
    """A bpf(2) call that failed."""

    def __init__(self, what: str, errno_: int) -> None:
        import os

        super().__init__(f"{what}: {os.strerror(errno_)}")
        self.errno = errno_


class VerifierError(SidelightError):
    """The kernel refused a program. `log` holds the last lines of the verifier's reasons."""

    def __init__(self, program: str, reason: str, log: list[str]) -> None:
        super().__init__(f"the kernel refused program {program}: {reason}" + "".join(f"\n  {line}" for line in log))
        self.program = program
        self.log = log


class ApiError(SidelightError):
    """The Kubernetes API server answered with an error."""


class ConfigError(SidelightError):
    """A flag, environment variable or configuration file that makes no sense."""
