"""`sidelight compile`."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import click

from sidelight.agent import compiler
from sidelight.agent.errors import ConfigError


@click.command("compile")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=compiler.PREBUILT, show_default=True, metavar="FILE"
)
def compile_command(output: Path) -> None:
    """Compile the BPF programs ahead of time, so that nodes need no compiler (image builds).

    \b
    Examples:
      sidelight compile
      sidelight compile -o /tmp/programs.msgpack
    """
    with as_file(files("sidelight.bpf").joinpath("stub")) as stub:
        artifact = compiler.compile_programs(stub)
    try:
        compiler.save(artifact, output)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    size = sum(len(program.instructions) for program in artifact.programs)
    click.echo(f"{output}: {len(artifact.programs)} programs, {size // 8} instructions, layout {artifact.layout}")
