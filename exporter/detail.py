"""Who reads our extension of Hubble's flows (sidelight.v1.FlowDetail), and how it says so."""

from __future__ import annotations

DETAIL = ("sidelight-detail", "1")
"""Metadata of such a caller. Others get flows without it: Go's JSON stops at a message whose type it does not know."""
