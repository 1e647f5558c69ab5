"""`sidelight demo --kubernetes`: the test cluster's shop, observed by an agent with the cluster's names. Needs the repository."""

from __future__ import annotations

import subprocess
import threading
import time

import click

from sidelight.cli.demo import _print_flows
from sidelight.cli.demo_cluster import observed_cluster
from sidelight.cli.map import _tree

SHOPPING = (
    "import http.client, time\n"
    "end = time.time() + {seconds}\n"
    "while time.time() < end:\n"
    "  c = http.client.HTTPConnection('10.96.0.13', 80, timeout=10)\n"
    "  c.request('GET', '/shop?user=42'); c.getresponse().read(); c.close(); time.sleep(0.1)\n"
)
"""What the shop's clients do."""


def run(seconds: float, metrics_listen: str, lines: int, output: str) -> None:
    """Builds the cluster, runs the shop, shows flows and the map, takes it all down."""
    with observed_cluster("demo", metrics_listen) as place:
        pods = place.module.shop(place.found)
        time.sleep(1.0)
        threading.Thread(target=_print_flows, args=(place.client, lines, output), daemon=True).start()
        load: subprocess.Popen[bytes] = place.found.run(pods["load"], "python3", "-c", SHOPPING.format(seconds=seconds))
        load.wait()
        place.runtime.agent.drain_now()
        time.sleep(0.3)
        place.runtime.agent.drain_now()
        click.echo("\nThe service map:")
        _tree(place.client.query("map"))
        audit = place.client.query("audit")
        click.echo("books: " + ("all laws hold" if audit["holds"] else "BROKEN"))
