"""What each metric of a verdict counts, how it is judged, and what one can do about it: `sidelight explain http.errors`."""

from __future__ import annotations

from sidelight.analysis.comparison import MEASURES, Measure

COUNTS = {
    ("served", "errors"): (
        "Requests that it answered with a server's error, or not at all, of all that were asked of it. A server's errors are 5xx, gRPC's "
        "codes that OpenTelemetry counts as the server's, a data store's error answers. A request whose connection ended, was reset or "
        "timed out before the answer counts as failed."
    ),
    ("served", "slow"): (
        "Requests whose answer took longer than an edge: the smallest bound of the buckets that at most a tenth of the baseline's requests "
        "exceeded before the comparison began, or --slower-than. Counted exactly at the edge, nothing is interpolated. What was never "
        "answered counts by how long it had waited when it ended."
    ),
    ("served", "tail"): (
        "Requests whose answer took longer than the bound that at most one in a hundred of the baseline's requests exceeded before the "
        "comparison began. Otherwise as slow."
    ),
    ("asked", "errors"): (
        "Of what its pods ask of others, what failed for them as clients (4xx too): a new version that sends wrong statements, or calls "
        "what is not there."
    ),
    (
        "ended",
        "resets",
    ): "Of its connections as a server that ended, those that were reset, by either side, or timed out.",
    ("dialled", "refused"): (
        "Of the connections that observed clients tried to open to its pods, those that failed: refused, reset, unreachable, timed out. "
        "Where clients dial a Service of both versions from another node, nobody can say whose an attempt was that nobody answered."
    ),
    ("sent", "retransmits"): "Of the segments that its sockets sent, those sent again. A matter of networks: advisory.",
}
WEIGHTS = {
    "required": "It has to pass for the whole to pass.",
    "guard": "It can fail the whole; that nothing is shown of it keeps nothing from passing.",
    "advisory": "It is said, and decides nothing.",
}
HOW = (
    "FAIL: that it is worse by more than tolerated is shown; PASS: that it is worse by less is. Shown means an e-value of 1/alpha (shared "
    "among the metrics that can fail) or 1/beta: a chance of at most that of being wrong, whenever and however often one looks. Events in "
    "bursts count as fewer; a FAIL has to stand without any one pod of the canary, a PASS without any one of the baseline."
)


def explain(name: str) -> list[str]:
    """Paragraphs about a metric or measure (http.errors, errors, asked.redis.errors); empty for what is none."""
    prefix, _, last = name.rpartition(".")
    found = [measure for measure in MEASURES if measure.name == last]
    if prefix.startswith("asked"):
        found = [measure for measure in found if measure.kind == "asked"]
    elif prefix:
        found = [measure for measure in found if measure.kind != "asked"]
    return [paragraph for measure in found for paragraph in _about(measure)] + ([HOW] if found else [])


def _about(measure: Measure) -> list[str]:
    tolerance = measure.tolerance
    tolerated = f"Tolerated unless said otherwise: {tolerance.ratio:g} times the baseline's share and {tolerance.margin * 100:g} percentage points more"
    option = {
        "errors": "--max-error-increase", "slow": "--max-share-increase", "tail": "--max-share-increase"
    }.get(measure.name, f"--tolerance {measure.name}=x1.5+1pp")  # fmt: skip
    return [COUNTS[measure.kind, measure.name], f"{tolerated} ({option}). {WEIGHTS[measure.weight]}"]
