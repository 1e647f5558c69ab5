"""One listing of some resources, as documents: for commands that look at a cluster's objects once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sidelight.identity.kubernetes import HttpTransport, read_access

PAGE = 500


class ListingFailed(Exception):
    """What the API server said, in one line."""


def listing(
    kubeconfig: str, paths: dict[str, str], scratch: Path, *, optional: frozenset[str] = frozenset()
) -> Iterator[dict[str, Any]]:
    """Objects of each path ({path: kind}), with their kind. A path in `optional` may not be there (no such CRD).

    Raises ListingFailed; ClusterUnreachable when there is no access.
    """
    transport = HttpTransport(read_access(kubeconfig, scratch), None)
    for path, kind in paths.items():
        token = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": token} if token else {})}
            page = _page(transport, path, query, path in optional)
            if page is None:
                break
            for item in page.get("items") or ():
                yield {"kind": kind, **item}
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                break


def _page(transport: HttpTransport, path: str, query: dict[str, str], optional: bool) -> dict[str, Any] | None:
    try:
        response = transport.get(path, query, metadata_only=False, timeout_s=30.0)
        body = b"".join(response.chunks())
    except OSError as error:
        raise ListingFailed(f"{path}: {error}") from None
    if response.status in (403, 404) and optional:
        return None
    if response.status != 200:
        raise ListingFailed(f"{path}: the API server says {response.status}")
    try:
        found = json.loads(body)
    except ValueError:
        raise ListingFailed(f"{path}: not JSON") from None
    if not isinstance(found, dict):
        raise ListingFailed(f"{path}: not a list of objects")
    return found
