"""Port-forward to a service of a cluster, through the kubernetes package: what `kubectl port-forward` does."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

from sidelight.agent.errors import ConfigError, SidelightError

CHUNK = 65536


@contextlib.contextmanager
def forward(context: str, target: str) -> Iterator[int]:
    """A local port that leads to a pod behind NAMESPACE/SERVICE. Raises SidelightError."""
    from kubernetes import client, config
    from kubernetes.stream import portforward

    namespace, slash, name = target.partition("/")
    if not slash:
        raise ConfigError(f"--relay {target!r}: want NAMESPACE/SERVICE")
    try:
        api = client.CoreV1Api(config.new_client_from_config(context=context))
        pod, port = _pod_of(api, namespace, name)
    except (config.ConfigException, client.ApiException) as error:
        raise SidelightError(f"context {context}: {getattr(error, 'reason', None) or error}") from None
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = portforward(api.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port)).socket(port)
            threading.Thread(target=_pump, args=(near, far), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def _pod_of(api: Any, namespace: str, name: str) -> tuple[str, int]:
    """A ready pod of the service, and the port its first port leads to."""
    service = api.read_namespaced_service(name, namespace)
    selector = ",".join(f"{key}={value}" for key, value in (service.spec.selector or {}).items())
    for pod in api.list_namespaced_pod(namespace, label_selector=selector).items:
        if pod.status.phase == "Running":
            wanted = service.spec.ports[0].target_port
            if isinstance(wanted, int):
                return pod.metadata.name, wanted
            for container in pod.spec.containers:
                for port in container.ports or []:
                    if port.name == wanted:
                        return pod.metadata.name, port.container_port
    raise SidelightError(f"no running pod behind {namespace}/{name}")


def _pump(near: socket.socket, far: socket.socket) -> None:
    with near, far:
        while True:
            ready, _, _ = select.select([near, far], [], [], 60)
            for source, sink in ((near, far), (far, near)):
                if source in ready:
                    data = source.recv(CHUNK)
                    if not data:
                        return
                    sink.sendall(data)
