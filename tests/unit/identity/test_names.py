"""Names of addresses outside: which source wins, how long a name holds, how many there can be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.identity.model import Provenance
from sidelight.identity.names import (
    MAX_TTL_S,
    MIN_TTL_S,
    CidrGroups,
    LearnedNames,
    address_of,
    address_text,
    clean_host,
    is_loopback,
    read_hosts,
)

BANK = address_of("192.0.2.1")


def test_a_better_source_stays_until_it_runs_out() -> None:
    names = LearnedNames()
    names.learn(7, BANK, "dns.example", Provenance.DNS, 100.0, 60.0)
    names.learn(7, BANK, "host.example", Provenance.HOST, 110.0, 3600.0)
    names.learn(7, BANK, "sni.example", Provenance.SNI, 120.0, 3600.0)
    assert names.find(7, BANK, 130.0).name == "dns.example"  # type: ignore[union-attr]
    names.learn(7, BANK, "sni.example", Provenance.SNI, 161.0, 3600.0)
    assert names.find(7, BANK, 162.0).name == "sni.example"  # type: ignore[union-attr]
    names.learn(7, BANK, "other.example", Provenance.DNS, 170.0, 60.0)
    assert names.find(7, BANK, 171.0).name == "other.example"  # type: ignore[union-attr]
    assert names.find(8, BANK, 171.0) is None, "another workload may know it by another name"


@given(st.floats(-10, 1e9))
def test_a_ttl_is_believed_within_bounds(ttl: float) -> None:
    names = LearnedNames()
    names.learn(1, BANK, "a.example", Provenance.DNS, 1000.0, ttl)
    assert names.find(1, BANK, 1000.0 + MIN_TTL_S)
    assert not names.find(1, BANK, 1000.0 + MAX_TTL_S + 1)


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["a.example", "b.example"])), max_size=80))
def test_it_is_bounded_and_its_version_tells_of_every_new_name(said: list[tuple[int, str]]) -> None:
    names = LearnedNames(limit=10)
    for step, (last, name) in enumerate(said):
        address = address_of(f"192.0.2.{last}")
        before, version = names.find(1, address, float(step)), names.version
        names.learn(1, address, name, Provenance.DNS, float(step), 60.0)
        after = names.find(1, address, float(step))
        assert after and after.name == name
        assert (names.version != version) == (before is None or before.name != name)
        assert len(names) <= 10
    assert len(names) + names.evicted >= len({last for last, _ in said})


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Shop.Example.", "shop.example"), ("shop.example:8080", "shop.example"), ("10.0.0.1:80", ""), ("[::1]:80", ""),
        ("", ""), ("a b", ""), ("a\x1b[31m", ""), ("bücher.example", ""), ("x" * 254, ""), ("_svc._tcp.a", "_svc._tcp.a"),
    ],
)  # fmt: skip
def test_hosts_that_are_names(raw: str, clean: str) -> None:
    assert clean_host(raw) == clean


def test_a_hosts_file_with_nonsense_in_it(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(
        b"127.0.0.1 localhost\n192.0.2.1 bank pay # x\n192.0.2.1 later\nnonsense here\n\xff\xfe\n2001:db8::1 six\n10.0.0.1\n"
    )
    assert read_hosts(path) == {BANK: "bank", address_of("2001:db8::1"): "six"}
    assert read_hosts(tmp_path / "none") == {}


def test_the_longest_prefix_names_a_network() -> None:
    groups = CidrGroups({"10.0.0.0/8": "office", "10.1.0.0/16": "lab", "2001:db8::/32": "six"})
    found = [groups.find(address_of(a)) for a in ("10.2.0.1", "10.1.9.9", "2001:db8::5", "192.0.2.1")]
    assert found == ["office", "lab", "six", None]
    with pytest.raises(ValueError):
        CidrGroups({"10.0.0.0/99": "x"})


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda a: a.ipv4_mapped is None)))
def test_addresses_keep_their_text(address: object) -> None:
    raw = address_of(str(address))
    assert len(raw) == 16 and address_text(raw) == str(address)
    assert is_loopback(raw) == address.is_loopback  # type: ignore[attr-defined]
