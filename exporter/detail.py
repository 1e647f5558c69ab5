"""Who reads our extension of Hubble's flows (sidelight.v1.FlowDetail), and how it says so."""

from __future__ import annotations

from sidelight.exporter.proto import flow_pb2 as pb
from sidelight.exporter.proto import sidelight_pb2

DETAIL = ("sidelight-detail", "1")
"""Metadata of such a caller. Others get flows without it: Go's JSON stops at a message whose type it does not know."""


def detail_of(flow: pb.Flow) -> sidelight_pb2.FlowDetail:
    """What Sidelight adds to a flow; empty for another server's."""
    found = sidelight_pb2.FlowDetail()
    if flow.HasField("extensions"):
        flow.extensions.Unpack(found)
    return found
