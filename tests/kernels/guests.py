"""The kernels that are tried, and where they come from: Debian's own packages, each booted in QEMU without acceleration.

What lies between two of them is expected to work, and called so in docs/kernels.md.
"""

from __future__ import annotations

from dataclasses import dataclass

MODULES = (
    "virtio_pci", "virtio_mmio", "virtio_blk", "crc32c_generic", "ext4", "veth", "bridge", "br_netfilter", "dummy",
    "nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_numgen", "nft_limit", "nft_counter", "nft_reject_inet", "nft_reject_ipv4",
    "nft_reject_ipv6", "nf_conntrack", "nf_conntrack_netlink", "inet_diag", "tcp_diag",
)  # fmt: skip
"""What the tests need of a kernel that is not built in everywhere; a name a kernel does not have is skipped."""


@dataclass(frozen=True, slots=True)
class Machine:
    """An architecture as QEMU emulates it."""

    name: str
    qemu: tuple[str, ...]
    console: str
    wheels: tuple[str, ...]
    """pip's names of the platform, the newest first."""


MACHINES = {
    "amd64": Machine(
        "amd64",
        ("qemu-system-x86_64", "-cpu", "max"),
        "ttyS0",
        ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
    ),
    "arm64": Machine(
        "arm64",
        ("qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on"),
        "ttyAMA0",
        ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
    ),
}


@dataclass(frozen=True, slots=True)
class Guest:
    """A kernel to try. `package` is a pattern: the newest package that matches it is taken."""

    version: str
    machine: str
    package: str
    parts: tuple[str, ...]
    quick: tuple[str, ...] = ("load", "counts")
    """What CI runs of them."""

    @property
    def name(self) -> str:
        return f"{self.version}-{self.machine}"


WHOLE = frozenset({"privileges", "observers"})
"""Parts that need more on their disk."""
FULL = ("load", "counts", "corpus", "stores", "life", "shop", "privileges")

GUESTS = {
    guest.name: guest
    for guest in (
        Guest("5.10", "amd64", r"linux-image-5\.10\.0-[0-9]+-cloud-amd64", FULL),
        Guest("6.1", "amd64", r"linux-image-6\.1\.0-[0-9]+-cloud-amd64", (*FULL, "http2", "observers")),
        Guest("6.12", "amd64", r"linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64", (*FULL, "http2")),
        Guest(
            "6.1", "arm64", r"linux-image-6\.1\.0-[0-9]+-cloud-arm64", ("load", "exact", "counts"), ("load", "exact")
        ),
    )
}
