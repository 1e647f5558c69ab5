"""Configuration: one YAML file, environment, flags. Flags win over SIDELIGHT_* variables, those over the file, that over defaults.

The file's keys are the agent's long options without dashes (`metrics-listen: ":9464"`), and `cidr-groups`. Errors name key and line.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml

from sidelight.agent.errors import ConfigError
from sidelight.agent.settings import CaptureSettings

RELOADABLE = ("slow", "sample", "event-rate")
_NOT_IN_FILE = ("config", "help")


def _schema() -> dict[str, click.Option]:
    from sidelight.cli.agent import agent_command

    return {
        option.removeprefix("--"): parameter
        for parameter in agent_command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--") and option[2:] not in _NOT_IN_FILE
    }


def read_file(path: Path) -> dict[str, Any]:
    """Values by parameter name. Raises ConfigError with the key and line."""
    try:
        text = path.read_text("utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {getattr(error, 'problem', None) or error}") from None
    if document is None:
        return {}
    if not isinstance(node, yaml.MappingNode) or not isinstance(document, dict):
        raise ConfigError(f"{path} line 1: want a mapping of options")
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    schema = _schema()
    values: dict[str, Any] = {}
    for key, value in document.items():
        where = f"{path} line {lines.get(key, 1)}: {key}"
        if key == "cidr-groups":
            values["cidrs"] = _cidr_groups(where, value)
            continue
        parameter = schema.get(str(key))
        if parameter is None:
            raise ConfigError(f"{where}: unknown key; `sidelight config show` lists them")
        values[str(parameter.name)] = _convert(where, parameter, value)
    return values


def _cidr_groups(where: str, value: object) -> dict[str, str]:
    from sidelight.identity.names import CidrGroups

    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise ConfigError(f"{where}: want a mapping of network to name")
    try:
        CidrGroups(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return value


def _convert(where: str, parameter: click.Option, value: object) -> Any:
    if value is None:
        raise ConfigError(f"{where}: has no value")
    try:
        if parameter.multiple:
            if not isinstance(value, list):
                raise ConfigError(f"{where}: want a list")
            return tuple(parameter.type.convert(item, parameter, None) for item in value)
        if isinstance(value, (dict, list)):
            raise ConfigError(f"{where}: want one value")
        if parameter.is_flag and not isinstance(value, bool):
            raise ConfigError(f"{where}: want true or false")
        return parameter.type.convert(value, parameter, None)
    except click.BadParameter as error:
        raise ConfigError(f"{where}: {error.message}") from None


def apply_file(arguments: dict[str, Any], context: click.Context) -> dict[str, Any]:
    """Arguments with the file's values where neither a flag nor a variable said anything."""
    path = arguments.get("config_path")
    values = dict(arguments)
    if path is None:
        return values
    unsaid = (click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP, None)
    values |= {
        name: value
        for name, value in read_file(path).items()
        if name == "cidrs" or context.get_parameter_source(name) in unsaid
    }
    values["_config_stamp"] = [path.stat().st_mtime_ns]
    return values


def reloaded_capture(values: dict[str, Any], capture: CaptureSettings) -> CaptureSettings | None:
    """New capture settings when the file has changed and makes sense; what it says of other keys waits for a restart."""
    import logging

    path, stamp = values.get("config_path"), values.get("_config_stamp")
    if path is None or stamp is None:
        return None
    try:
        now = path.stat().st_mtime_ns
        if now == stamp[0]:
            return None
        stamp[0] = now
        fresh = read_file(path)
    except (OSError, ConfigError) as error:
        logging.getLogger("sidelight.config").error("configuration not taken in: %s", error)
        return None
    rate = fresh.get("event_rate", capture.ordinary_rate)
    return replace(
        capture,
        slow_ns=int(fresh.get("slow", capture.slow_ns / 1e9) * 1e9),
        sample_period=fresh.get("sample", capture.sample_period),
        ordinary_rate=rate,
        priority_rate=rate,
        connection_rate=rate,
        payload_rate=rate,
    )


@click.group("config")
def config_command() -> None:
    """Check or show the agent's configuration.

    \b
    Examples:
      sidelight config check /etc/sidelight.yaml
      sidelight config show /etc/sidelight.yaml
    """


@config_command.command("check")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
def check(path: Path) -> None:
    """Exit status 2 and one line with key and line, unless FILE is good."""
    values = read_file(path)
    click.echo(f"{path}: good, {len(values)} keys")


@config_command.command("show")
@click.argument("path", required=False, type=click.Path(path_type=Path, exists=True))
def show(path: Path | None) -> None:
    """All keys with their values: the file's, else the defaults; * marks those that are taken in without a restart."""
    values = read_file(path) if path else {}
    for key, parameter in sorted(_schema().items()):
        default = parameter.get_default(click.Context(config_command), call=True)
        value = values.get(str(parameter.name), default)
        shown = (
            list(value)
            if isinstance(value, tuple)
            else value
            if isinstance(value, (int, float, bool))
            else str(value or "")
        )
        mark = " *" if key in RELOADABLE else ""
        click.echo(f"{key}: {yaml.safe_dump(shown, default_flow_style=True).splitlines()[0]}{mark and '  #' + mark}")
