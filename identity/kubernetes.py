"""The index fed by watches, over the official client's configuration: in-cluster or a kubeconfig.

The official client's models are not imported: they cost 60 MB. Its configuration is read in a process of its own, and the
requests go through urllib3, which that client uses too.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from sidelight.identity.index import Index
from sidelight.identity.watch import RESOURCES, Health, Resource, follow
from sidelight.identity.workloads import MetricOptions

log = logging.getLogger("sidelight.kubernetes")

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CHUNK_BYTES = 65536
OWNERS_FIRST_S = 5.0
CONFIG_TIMEOUT_S = 60.0
"""A kubeconfig may name a program that fetches credentials."""

_READ_CONFIG = """
import json, sys
sys.modules["kubernetes_validate"] = None  # the client's optional validator: most of a second where it is installed
from kubernetes import client, config
c = client.Configuration()
config.load_kube_config(config_file=sys.argv[1], client_configuration=c, context=sys.argv[2] or None, persist_config=False)
token = next((s["value"] for s in c.auth_settings().values() if s.get("key") == "authorization"), "") or ""
print(json.dumps({"host": c.host, "ca": c.ssl_ca_cert or "", "cert": c.cert_file or "", "key": c.key_file or "",
  "verify": bool(c.verify_ssl), "token": token, "basic": c.get_basic_auth_token() if c.username else "",
  "ca_text": open(c.ssl_ca_cert).read() if c.ssl_ca_cert else "",
  "cert_text": open(c.cert_file).read() if c.cert_file else "", "key_text": open(c.key_file).read() if c.key_file else ""}))
"""


class ClusterUnreachable(Exception):
    """The configuration of a cluster cannot be had."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where an API server is and what it asks for. `token` is a whole Authorization value; never logged."""

    host: str
    token: str
    verify: bool
    ca_file: str
    cert_file: str
    key_file: str


def _in_cluster() -> Access:
    """As the client's load_incluster_config(): the service account's files, two variables. Raises ClusterUnreachable."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ClusterUnreachable(
            "not in a cluster: KUBERNETES_SERVICE_HOST and _PORT are not set; give --kubeconfig FILE"
        )
    try:
        token = (SERVICE_ACCOUNT / "token").read_text().strip()
    except OSError as error:
        raise ClusterUnreachable(f"cannot read the service account's token: {error.strerror}") from None
    ca = SERVICE_ACCOUNT / "ca.crt"
    if not token or not ca.exists():
        raise ClusterUnreachable(f"the service account's token or ca.crt is missing in {SERVICE_ACCOUNT}")
    return Access(
        f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        f"Bearer {token}",
        True,
        str(ca),
        "",
        "",
    )


def read_access(kubeconfig: str, scratch: Path, context: str = "") -> Access:
    """From a kubeconfig file, or in-cluster when empty. Raises ClusterUnreachable."""
    if not kubeconfig:
        return _in_cluster()
    if importlib.util.find_spec("kubernetes") is None:
        raise ClusterUnreachable("--kubeconfig needs the official client: pip install 'sidelight[kubeconfig]'")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _READ_CONFIG, kubeconfig, context],
            capture_output=True,
            text=True,
            check=False,
            timeout=CONFIG_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ClusterUnreachable(f"{kubeconfig}: its credentials took longer than {CONFIG_TIMEOUT_S:g} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise ClusterUnreachable(said[-1] if said else "cannot read the cluster's configuration")
    raw = json.loads(done.stdout)
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(name: str) -> str:
        # the client writes inline certificates to files that go with its process
        if not raw[f"{name}_text"]:
            return ""
        path = scratch / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_text(raw[f"{name}_text"])
        return str(path)

    return Access(raw["host"], raw["token"] or raw["basic"], raw["verify"], keep("ca"), keep("cert"), keep("key"))


class _Response:
    def __init__(self, raw: urllib3.BaseHTTPResponse) -> None:
        self._raw = raw
        self.status: int = raw.status

    def header(self, name: str) -> str:
        return self._raw.headers.get(name) or ""

    def chunks(self) -> Iterator[bytes]:
        try:
            # read1 gives what is there: stream() would wait for a whole chunk of ours
            while data := self._raw.read1(CHUNK_BYTES):
                yield data
        except urllib3.exceptions.HTTPError as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        self._raw.close()
        self._raw.release_conn()


class HttpTransport:
    """Requests to one API server. The token file of a service account is read anew every minute, and at once after a 401."""

    def __init__(self, access: Access, reread: Any) -> None:
        self._access = access
        self._reread = reread
        self._token_read = time.monotonic()
        self._pool = self._make_pool()
        if not access.verify:
            # said once, by us: urllib3 would say it with every request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            log.warning("insecure-skip-tls-verify: the API server's certificate is not verified")

    def _make_pool(self) -> urllib3.PoolManager:
        access = self._access
        return urllib3.PoolManager(
            num_pools=2,
            maxsize=16,
            retries=False,
            cert_reqs="CERT_REQUIRED" if access.verify else "CERT_NONE",
            ca_certs=access.ca_file or None,
            cert_file=access.cert_file or None,
            key_file=access.key_file or None,
        )

    def get(self, path: str, query: dict[str, str], *, metadata_only: bool, timeout_s: float) -> _Response:
        if time.monotonic() - self._token_read > 60:
            self._refresh_token()
        kind = (
            "application/json;as=PartialObjectMetadata{};v=v1;g=meta.k8s.io,application/json"
            if metadata_only
            else "application/json"
        )
        list_suffix = "" if query.get("watch") else "List"
        headers = {"Accept": kind.replace("{}", list_suffix), "User-Agent": "sidelight"}
        if self._access.token:
            headers["Authorization"] = self._access.token
        try:
            raw = self._pool.request(
                "GET",
                self._access.host + path,
                fields=query,
                headers=headers,
                preload_content=False,
                timeout=urllib3.Timeout(connect=5.0, read=timeout_s),
            )
        except urllib3.exceptions.HTTPError as error:
            raise OSError(str(error)) from None
        return _Response(raw)

    def renew(self) -> None:
        """After a 401: credentials may have been rotated."""
        self._refresh_token()
        if self._reread is not None:
            try:
                fresh = self._reread()
            except ClusterUnreachable as error:
                log.warning("credentials cannot be read again: %s", error)
                return
            self._access = fresh
            self._pool = self._make_pool()

    def _refresh_token(self) -> None:
        self._token_read = time.monotonic()
        if self._reread is not None:
            return
        try:
            token = (SERVICE_ACCOUNT / "token").read_text().strip()
        except OSError:
            return
        self._access = Access(self._access.host, f"Bearer {token}", self._access.verify, self._access.ca_file, "", "")


class KubernetesIndex(Index):
    """An index with its watches: one thread a resource."""

    def __init__(
        self,
        transport: HttpTransport,
        *,
        node: str,
        cluster: str,
        scope: str,
        metric_labels: tuple[str, ...],
        tombstone_s: float,
    ) -> None:
        super().__init__(cluster, node, MetricOptions(metric_labels), tombstone_s)
        self._transport = transport
        self._stop = threading.Event()
        self.resources = tuple(_scoped(resource, scope, node) for resource in RESOURCES)
        self.health = {resource.name: Health() for resource in self.resources}
        self._threads: list[threading.Thread] = []

    @classmethod
    def connect(
        cls,
        *,
        kubeconfig: str,
        node: str,
        cluster: str,
        scope: str = "cluster",
        metric_labels: tuple[str, ...] = (),
        tombstone_s: float = 300.0,
        scratch: Path = Path("/run/sidelight/credentials"),
    ) -> KubernetesIndex:
        """Reads the configuration. Raises ClusterUnreachable; an API server that is away is no error."""
        access = read_access(kubeconfig, scratch)
        reread = (lambda: read_access(kubeconfig, scratch)) if kubeconfig else None
        return cls(
            HttpTransport(access, reread),
            node=node,
            cluster=cluster,
            scope=scope,
            metric_labels=metric_labels,
            tombstone_s=tombstone_s,
        )

    def start(self) -> None:
        for resource in self.resources:
            thread = threading.Thread(target=self._run, args=(resource,), name=f"watch-{resource.name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        watchdog = threading.Thread(target=self._watch_staleness, name="watch-staleness", daemon=True)
        watchdog.start()

    def stop(self) -> None:
        self._stop.set()

    def wait_synced(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self.synced:
            time.sleep(0.02)
        return self.synced

    def _run(self, resource: Resource) -> None:
        if resource.name == "pods":
            self._await_owners()
        health = self.health[resource.name]
        for change in follow(resource, self._transport, health, self._stop):
            if change.action == "put":
                self.put(change.kind, change.item, change.at)
            elif change.action == "remove":
                self.remove(change.kind, change.uid, change.at)
            else:
                self.synced = all(state.synced for state in self.health.values())

    def _await_owners(self) -> None:
        """Pods after their owners: else a large cluster's would all have to be kept whole until those arrive."""
        deadline = time.monotonic() + OWNERS_FIRST_S
        while time.monotonic() < deadline and not all(self.health[name].synced for name in ("replicasets", "jobs")):
            if self._stop.wait(0.02):
                return

    def _watch_staleness(self) -> None:
        told = ""
        while not self._stop.wait(1.0):
            failing = [(name, state) for name, state in self.health.items() if state.last_error and _unheard(state)]
            self.staleness_s = max((time.time() - state.heard for _, state in failing if state.heard), default=0.0)
            if failing:
                text = f"{failing[0][0]}: {failing[0][1].last_error}"
                if text != told:
                    log.warning("the API server does not answer, names stay as they were: %s", text)
                told = text
            else:
                told = ""


def _unheard(state: Health) -> bool:
    """Quiet watches are no news: only a failing one is stale."""
    return time.time() - state.heard > 5.0 and state.errors > 0 and not state.connected


def _scoped(resource: Resource, scope: str, node: str) -> Resource:
    """With scope node+services only this node's pods are watched: remote pods then have a service's name, or none."""
    if scope == "node+services" and resource.name == "pods":
        return Resource(resource.name, resource.path, resource.type, resource.metadata_only, f"spec.nodeName={node}")
    return resource
