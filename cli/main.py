"""The program `sidelight`: a group of commands, each in a module of its own, imported when it is called."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

import click

# gRPC's C core logs by itself; what matters to a user reaches them as an error of ours
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from sidelight import __version__
from sidelight.agent.errors import SidelightError

# command -> module of cli/; the function has the command's name with _command
COMMANDS = {
    "agent": "agent",
    "tail": "tail",
    "top": "top",
    "map": "map",
    "diff": "diff",
    "verify": "verify",
    "policy": "policy",
    "explain": "explain",
    "status": "status",
    "audit": "audit",
    "record": "record",
    "doctor": "doctor",
    "demo": "demo",
    "config": "config",
    "compile": "compile",
    "unload": "unload",
    "completion": "completion",
}


class LazyGroup(click.Group):
    """Lists commands without importing them: `sidelight --help` takes no time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if _exists(name)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS or not _exists(name):
            return None
        module = importlib.import_module(f"sidelight.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                rows.append((name, command.get_short_help_str(limit=90)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _exists(name: str) -> bool:
    return importlib.util.find_spec(f"sidelight.cli.{COMMANDS[name]}") is not None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sidelight")
def cli() -> None:
    """Who talks to whom on this node, how well, and under which name. Without sidecars.

    \b
    Examples:
      sidelight demo                 see it work: nginx, redis, a Python service, observed in a cgroup of their own
      sidelight tail                 follow live connections and requests of this host
      sidelight top                  edges by rate, errors and latency
      sidelight agent                the agent of a node, with /metrics
      sidelight doctor               what this kernel and these privileges allow
    """


def main() -> None:
    """Entry point: errors of ours are one line and status 2."""
    try:
        cli.main(prog_name="sidelight", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        click.echo(f"sidelight: {error.format_message()}", err=True)
        sys.exit(2)
    except SidelightError as error:
        click.echo(f"sidelight: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # the reader of our pipe has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
