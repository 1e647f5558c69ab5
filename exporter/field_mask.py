"""Field masks over protobuf messages (google.protobuf.FieldMask): keep the named paths, drop the rest."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

MAX_PATHS = 256
ELSEWHERE = frozenset(
    {
        "auth_type", "debug_capture_point", "drop_reason", "egress_allowed_by", "egress_denied_by", "file",
        "ingress_allowed_by", "ingress_denied_by", "ip_trace_id", "policy_log", "policy_match_type", "proxy_port",
        "reply", "sock_xlate_point", "trace_reason", "tunnel",
    }
)  # fmt: skip
"""Fields of Hubble's Flow that Sidelight has no data for: stock clients ask for them, and get nothing."""
Tree = dict[str, "Tree"]


class MaskError(ValueError):
    """A path that the message does not have."""


def mask_tree(paths: Iterable[str], descriptor: Descriptor) -> Tree:
    """A tree of field names; an empty subtree keeps the whole field. Raises MaskError."""
    tree: Tree = {}
    for count, path in enumerate(paths):
        if count >= MAX_PATHS:
            raise MaskError(f"more than {MAX_PATHS} paths in the field mask")
        if path.split(".")[0] not in ELSEWHERE:
            _insert(tree, path, descriptor)
    return tree


def _insert(tree: Tree, path: str, descriptor: Descriptor) -> None:
    here: Descriptor | None = descriptor
    at = tree
    parts = path.split(".")
    for index, name in enumerate(parts):
        field = here.fields_by_name.get(name) if here is not None else None
        if field is None:
            raise MaskError(f"invalid field mask path {path!r}")
        if name in at and not at[name] and index < len(parts):
            return  # the whole field is kept already
        if index == len(parts) - 1:
            at[name] = {}
            return
        at = at.setdefault(name, {})
        here = field.message_type


def apply_mask(message: Message, tree: Tree) -> None:
    """Clears what the tree does not name, in place."""
    for field, value in message.ListFields():
        if field.name not in tree:
            message.ClearField(field.name)
        elif tree[field.name] and field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                apply_mask(part, tree[field.name])
