"""`sidelight verify`: is the new version worse than the old, and is enough known to say?"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.cli import options
from sidelight.exporter.verify.options import seconds, settings_of
from sidelight.exporter.verify.trial import Trial, load, summary

if TYPE_CHECKING:
    from sidelight.analysis.comparison import Settings
    from sidelight.analysis.verdict import Verdict
    from sidelight.cli.client import Client
    from sidelight.cli.verify_screen import Screen
    from sidelight.exporter.verify.arms import Arms
    from sidelight.exporter.verify.sessions import Sessions
    from sidelight.exporter.verify.trial import Source

STATUS = {"pass": 0, "fail": 1, "inconclusive": 3}
UP_TO_S = 600.0


@click.command("verify")
@click.argument("target", required=False, metavar="[NAMESPACE/]NAME")
@options.connection_options
@options.cgroup_option
@click.option(
    "--baseline", metavar="SELECTOR", help="The old: version=v1, workload=NAME, LABEL=VALUE; joined by commas."
)
@click.option("--canary", metavar="SELECTOR", help="The new, likewise.")
@click.option("--follow", is_flag=True, help="Show it on the screen as it goes on.")
@click.option(
    "--for",
    "for_",
    metavar="DURATION",
    help="Look for so long: a FAIL ends it at once, a PASS is said at the end. "
    "Without: until there is a verdict, 10m at most.",
)
@click.option("--interval", metavar="DURATION", help="Look so often.  [default: 5s]")
@click.option(
    "--max-error-increase",
    metavar="TOLERANCE",
    help="What may fail more: x1.5 times the baseline's share, 0.1pp, or both as x1.5+0.1pp.  [default: x1.25+0.1pp]",
)
@click.option(
    "--slower-than",
    metavar="DURATION",
    help="What counts as slow.  [default: what a tenth of the baseline's requests is, and for the tail one in a hundred]",
)
@click.option(
    "--max-share-increase",
    metavar="TOLERANCE",
    help="What may be slower.  [default: x1.25+1pp, of the tail x1.5+0.5pp]",
)
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    metavar="METRIC=TOLERANCE",
    help="For one metric: http.tail=x2, resets=1pp.",
)
@click.option("--advisory", multiple=True, metavar="METRIC", help="Say it, decide nothing by it: tail, http.slow.")
@click.option("--warm-up", metavar="DURATION", help="Leave out what a pod does at first.  [default: 30s]")
@click.option("--alpha", metavar="SHARE", help="Chance of a wrong FAIL, whenever one looks.  [default: 5%]")
@click.option("--beta", metavar="SHARE", help="Chance of a wrong PASS.  [default: 5%]")
@click.option(
    "--unit", type=click.Choice(["exchange", "pod"]), help="What is independent; pod: where pods differ by nature."
)
@click.option(
    "--single-look",
    is_flag=True,
    help="Judge once, at the end of --for, by the exact test: a little stronger, and no looking before.",
)
@click.option(
    "--expected-share", metavar="SHARE", help="Of the traffic that the canary should get: say so if it does not."
)
@click.option("--prometheus", metavar="URL", help="Take the figures from there instead of from agents.")
@click.option(
    "--prometheus-token-file", type=click.Path(path_type=Path, exists=True), metavar="FILE", help="Bearer token for it."
)
@click.option("--since", metavar="DURATION", help="With --prometheus: what has been, from so long ago until now.")
@click.option(
    "--baseline-offset",
    metavar="DURATION",
    help="With --prometheus: a baseline of so long before. Not at the same time, and said so.",
)
@click.option(
    "--replay", type=click.Path(path_type=Path, exists=True), metavar="FILE", help="Judge a kept comparison again."
)
@click.option(
    "--keep", type=click.Path(path_type=Path), metavar="FILE", help="Keep the counts and settings, for --replay."
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a page with plots (.html), or the plots alone (.svg).",
)
@click.option("-o", "--output", type=click.Choice(["text", "json", "junit"]), default="text", show_default=True)
@click.option(
    "--serve", metavar="HOST:PORT", help="Answer Argo, Flagger and Spinnaker at /verify instead (docs/canaries.md)."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="With --serve: who asks has to know it.",
)
@click.pass_context
def verify_command(context: click.Context, /, target: str | None, follow: bool, output: str, **arguments: Any) -> None:  # fmt: skip
    """A verdict on a new version: PASS, FAIL or INCONCLUSIVE, with how it is known and what is missing.

    Exit status: 0 pass, 1 fail, 2 it could not be done as asked, 3 inconclusive.

    \b
    Examples:
      sidelight verify shop/catalogue --baseline version=v1 --canary version=v2 --follow
      sidelight verify shop/catalogue --baseline workload=catalogue-primary --canary workload=catalogue --for 10m
      sidelight verify shop/catalogue --baseline version=v1 --canary version=v2 --prometheus http://prometheus:9090 --since 30m
      sidelight verify --replay kept.json --report report.html
      sidelight verify --serve 127.0.0.1:9470 --prometheus http://prometheus:9090
    """
    if arguments["replay"]:
        from sidelight.analysis.judge import judge

        _only(context, "replay", ("report", "output", "keep"))
        document = load(arguments["replay"])
        _finish(document, judge(document), output, arguments)
    if arguments["serve"]:
        _serve(arguments)
        return
    if not target or not arguments["baseline"] or not arguments["canary"]:
        raise click.UsageError("what with what? NAMESPACE/NAME --baseline version=v1 --canary version=v2")
    from sidelight.exporter.verify.arms import arms_of

    arms, settings = arms_of(target, arguments["baseline"], arguments["canary"]), settings_from(arguments)
    _check_outputs(arguments)
    if arguments["prometheus"]:
        trial = Trial(arms, prometheus(arguments, arms, settings), settings, time.time)
        verdict = _run(trial, follow, lambda: False)
    else:
        from sidelight.cli.client import connect

        with connect(arguments) as client, client.until_interrupted():
            trial = Trial(arms, agents(client, arms, settings), settings, time.time)
            verdict = _run(trial, follow, lambda: client.interrupted)
    _finish(trial.document(), verdict, output, arguments, screen=follow)


def settings_from(arguments: dict[str, Any]) -> Settings:
    """Raises ConfigError."""
    asked = {
        name.replace("_", "-"): str(arguments[name])
        for name in ("interval", "max_error_increase", "slower_than", "max_share_increase", "warm_up", "alpha", "beta", "unit", "expected_share")
        if arguments.get(name)
    }  # fmt: skip
    if arguments.get("for_"):
        asked["for"] = arguments["for_"]
    if arguments.get("single_look"):
        asked["single-look"] = "true"
    for text in arguments.get("tolerances") or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--tolerance {text!r}: want METRIC=TOLERANCE")
        asked[f"tolerance.{name}"] = value
    if arguments.get("advisory"):
        asked["advisory"] = ",".join(arguments["advisory"])
    found = settings_of(asked)
    if arguments.get("baseline_offset"):
        if not arguments.get("prometheus"):
            raise ConfigError("--baseline-offset needs --prometheus: agents do not know what was")
        from dataclasses import replace

        found = replace(found, offset_s=seconds(arguments["baseline_offset"]))
    return found


def agents(client: Client, arms: Arms, settings: Settings) -> Source:
    """All agents that the client is connected with."""
    from sidelight.exporter.verify.agents import Agents

    def ask(name: str) -> Callable[[str], dict[str, Any]]:
        return lambda argument: client.query_one(name, "closeup", argument)

    return Agents([(name, ask(name)) for name, _ in client.channels], arms, settings.slower_than_s)


def prometheus(arguments: dict[str, Any], arms: Arms, settings: Settings) -> Source:
    """Raises ConfigError."""
    from sidelight.exporter.verify.prometheus import Api, Prometheus

    url = arguments["prometheus"]
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--prometheus {url!r}: want http://HOST:PORT")
    token_file = arguments.get("prometheus_token_file")
    token = token_file.read_text().strip() if token_file else ""
    ca = str(arguments["tls_ca"]) if arguments.get("tls_ca") else ""
    now = time.time()
    if arguments.get("since"):
        back = seconds(arguments["since"])
        return Prometheus(
            Api(url, token, ca), arms, settings.interval_s, since=now - back, until=now, offset_s=settings.offset_s
        )
    return Prometheus(Api(url, token, ca), arms, settings.interval_s, since=now, offset_s=settings.offset_s)


def _only(context: click.Context, option: str, allowed: tuple[str, ...]) -> None:
    given = click.core.ParameterSource.COMMANDLINE
    others = [
        name
        for name in context.params
        if context.get_parameter_source(name) == given and name not in (option, *allowed)
    ]
    if others:
        names = ", ".join("--" + name.rstrip("_").replace("_", "-") for name in others)
        raise click.UsageError(f"--{option} judges by what is in the file: without {names}")


def _check_outputs(arguments: dict[str, Any]) -> None:
    """Before ten minutes have passed."""
    for name in ("report", "keep"):
        path = arguments.get(name)
        if path and not path.parent.is_dir():
            raise ConfigError(f"--{name} {path}: there is no such directory")
    if arguments.get("report") and arguments["report"].suffix not in (".html", ".svg"):
        raise ConfigError(f"--report {arguments['report']}: want a name that ends in .html or .svg")


def _run(trial: Trial, follow: bool, interrupted: Callable[[], bool]) -> Verdict:
    """Looks until the trial ends, or it has taken long enough, or somebody interrupts: then once more, for what is left."""
    from sidelight.cli.verify_screen import Screen

    trial.start()
    began = time.monotonic()
    limit = trial.settings.for_s or UP_TO_S
    with Screen(trial, live=follow) as screen:
        try:
            _wait(0.0 if trial.past else trial.settings.interval_s, interrupted)
            while not trial.ended:
                over = interrupted() or time.monotonic() - began >= limit
                _look(trial, screen, over)
                if not trial.ended:
                    left = limit - (time.monotonic() - began)
                    _wait(max(0.0, min(trial.settings.interval_s, left)), interrupted)
        except KeyboardInterrupt:
            trial.look(last=True)
    assert trial.verdict is not None
    return trial.verdict


def _look(trial: Trial, screen: Screen, over: bool) -> None:
    """A source that does not answer for once is asked again: what it counts meanwhile comes then."""
    try:
        screen.show(trial.look(last=over))
    except ConfigError:
        raise
    except SidelightError as error:
        if over or trial.past:
            raise
        click.echo(f"sidelight: {error}; asking again", err=True)


def _wait(length_s: float, interrupted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + length_s
    while (left := deadline - time.monotonic()) > 0 and not interrupted():
        time.sleep(min(0.2, left))


def _finish(
    document: dict[str, Any], verdict: Verdict, output: str, arguments: dict[str, Any], *, screen: bool = False
) -> None:
    """Prints, writes what was asked for, and ends with the verdict's exit status."""
    from sidelight.cli import verify_screen

    if arguments.get("keep"):
        _write(arguments["keep"], json.dumps(document) + "\n")
    if arguments.get("report"):
        from sidelight.cli.verify_report import page, plots

        draw = page if arguments["report"].suffix == ".html" else plots
        _write(arguments["report"], draw(document, verdict))
    if output == "json":
        click.echo(json.dumps(summary(verdict, document) | {"comparison": document}, indent=2))
    elif output == "junit":
        from sidelight.cli.verify_report import junit

        click.echo(junit(document, verdict))
    elif not screen or not sys.stdout.isatty():
        verify_screen.print_verdict(document, verdict)
    sys.exit(STATUS[verdict.verdict])


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise SidelightError(f"cannot write {path}: {error.strerror}") from None


def _serve(arguments: dict[str, Any]) -> None:
    """Answers until it is ended."""
    import signal

    from sidelight.exporter.verify.sessions import Sessions, read_token

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    token = read_token(arguments["token_file"])
    if arguments["prometheus"]:
        sessions = Sessions(lambda arms, settings: prometheus(arguments, arms, settings), token)
        _answer(sessions, arguments["serve"], stop)
        return
    from sidelight.cli.client import connect

    with connect(arguments, own_agent=False) as client:
        sessions = Sessions(lambda arms, settings: agents(client, arms, settings), token)
        _answer(sessions, arguments["serve"], stop)


def _answer(sessions: Sessions, listen: str, stop: threading.Event) -> None:
    from sidelight.exporter.web import VerifyServer

    server = VerifyServer(sessions, listen)
    click.echo(f"answering at port {server.port}: /verify", err=True)
    try:
        stop.wait()
    finally:
        sessions.stop()
        server.stop()
