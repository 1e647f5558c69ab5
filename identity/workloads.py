"""Names of pods: workload by their owners, app and version by their labels. Equal strings and label sets are kept once."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from sidelight.identity import objects
from sidelight.identity.model import Identity, Kind, Provenance

_LABEL_SETS = 50_000
_WAITING = 10_000
_OWNERS = 200_000


@dataclass(frozen=True, slots=True)
class MetricOptions:
    """Pod labels that become metric labels, and whether names of `service.name` come from labels (OpenTelemetry's opt-in)."""

    labels: tuple[str, ...] = ()
    service_name_from_labels: bool = True


class Workloads:
    """Owners as the watches tell them, and identities of pods by them. Not thread-safe: the index has the lock."""

    def __init__(self, cluster: str, options: MetricOptions, zones: dict[str, str]) -> None:
        self._cluster, self._options, self._zones = cluster, options, zones
        self._label_sets: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
        self._owners: dict[str, objects.OwnerReference | None] = {}
        self._waiting: dict[str, dict[str, objects.Pod]] = {}
        """Pods whose owner has not arrived, by the owner's UID."""

    def identity(self, pod: objects.Pod) -> Identity:
        meta = pod.metadata
        labels = meta.labels or {}
        workload, kind = self.workload(pod)
        app = labels.get("app.kubernetes.io/name") or labels.get("app") or labels.get("k8s-app") or workload
        version = labels.get("app.kubernetes.io/version") or labels.get("version") or ""
        once = sys.intern
        return Identity(
            Kind.POD,
            meta.name,
            namespace=once(meta.namespace),
            workload=once(workload),
            workload_kind=once(kind),
            app=once(app),
            version=once(version),
            service_name=once(self._service_name(meta, labels, workload)),
            node=once(pod.spec.node_name),
            cluster=self._cluster,
            zone=self._zones.get(pod.spec.node_name, ""),
            uid=meta.uid,
            labels=self._label_set(labels),
            metric_labels=self._label_set({key: labels[key] for key in self._options.labels if key in labels}),
            provenance=Provenance.POD_IP,
        )

    def put_owner(self, item: objects.OnlyMeta) -> list[objects.Pod]:
        """The pods that waited for it."""
        uid = item.metadata.uid
        self._owners[uid] = _controller(item.metadata)
        return list(self._waiting.pop(uid, {}).values())

    def remove_owner(self, uid: str) -> None:
        self._waiting.pop(uid, None)
        if len(self._owners) > _OWNERS:  # kept while their pods may still be asked for
            self._owners.pop(uid, None)

    def _label_set(self, labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
        """The labels, sorted; pods of a workload share one tuple."""
        items = tuple(sorted(labels.items()))
        if len(self._label_sets) >= _LABEL_SETS:
            self._label_sets.clear()  # those in use live on with their pods
        return self._label_sets.setdefault(items, items)

    def _service_name(self, meta: objects.Meta, labels: dict[str, str], workload: str) -> str:
        """OpenTelemetry's order: annotation, recommended labels, workload, pod."""
        if meta.annotations and meta.annotations.service_name:
            return meta.annotations.service_name
        if self._options.service_name_from_labels:
            for key in ("app.kubernetes.io/instance", "app.kubernetes.io/name"):
                if labels.get(key):
                    return labels[key]
        return workload or meta.name

    def workload(self, pod: objects.Pod) -> tuple[str, str]:
        """(name, kind) of the topmost owner; a bare pod is its own, a static pod too, without the node in its name."""
        meta = pod.metadata
        owner = _controller(meta)
        if owner is None:
            return meta.name, "Pod"
        if owner.kind == "Node":
            return meta.name.removesuffix(f"-{owner.name}"), "Pod"
        for _ in range(4):
            if owner.uid not in self._owners:
                if owner.kind in ("ReplicaSet", "Job"):
                    if len(self._waiting) < _WAITING:  # beyond, the guess holds until the pod's next change
                        self._waiting.setdefault(owner.uid, {})[meta.uid] = pod
                    return _guess_owner(owner, meta.labels or {})
                break
            above = self._owners[owner.uid]
            if above is None:
                break
            owner = above
        return owner.name, owner.kind


def _controller(meta: objects.Meta) -> objects.OwnerReference | None:
    references = meta.owner_references or []
    return next((reference for reference in references if reference.controller), references[0] if references else None)


def _guess_owner(owner: objects.OwnerReference, labels: dict[str, str]) -> tuple[str, str]:
    """Until the ReplicaSet's own object arrives: its pods' hash label tells a Deployment's, or a Rollout's, name."""
    digest = labels.get("pod-template-hash") or labels.get("rollouts-pod-template-hash")
    if owner.kind == "ReplicaSet" and digest and owner.name.endswith(f"-{digest}"):
        kind = "Rollout" if "rollouts-pod-template-hash" in labels else "Deployment"
        return owner.name.removesuffix(f"-{digest}"), kind
    return owner.name, owner.kind
