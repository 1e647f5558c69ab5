"""No literal of a statement leaves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.agent.sql import masked

SECRET = "Sesame"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"select * from users where id = 42 and name = 'O''Hara'", "select * from users where id = ? and name = ?"),
        (b"SELECT\n\t$1::int, 'x'", "SELECT $1::int, ?"),
        (b"insert into t values (1, 2.5e10, 0xFF, x'ab', E'a\\'b'", "insert into t values (?, ?, ?, ?, ?"),
        (b"select $$body ' of $$, $q$ $$ $q$, t1.col2 from t1 ", "select ?, ?, t1.col2 from t1"),
        (b"/* who: me */ select 1 -- and why\n from x ", "select ? from x"),
        (b"select date '2024-01-01', interval '1 day' ", "select ?, ?"),
        (b"update t set a = 'it is cut here", "update t set a = ?"),
        (b"select 'a\\' , secret' ", "select ?"),
        (
            b"select `my col` from [dbo] where x = @var and y = :name ",
            "select `my col` from [dbo] where x = @var and y = :name",
        ),
        (b"select 1\0garbage", "select ?"),
        (b"select -5, .5, 1_000 ", "select -?, ?, ?"),
    ],
)
def test_statements(raw: bytes, shown: str) -> None:
    assert masked(raw, True) == shown


def test_a_double_quote_is_a_name_or_a_string() -> None:
    assert masked(b'select "name" from t ', True) == 'select "name" from t'
    assert masked(b'select "name" from t ', False) == "select ? from t"


literals = st.one_of(
    st.text(alphabet="abc '\"\\$-/*#%;\n", max_size=8).map(
        lambda s: "'" + (s + SECRET).replace("\\", "\\\\").replace("'", "''") + "'"
    ),
    st.text(alphabet="abc '\n-", max_size=8).map(lambda s: f"$${s}{SECRET}$$"),
    st.text(alphabet="abc '$\n-", max_size=8)
    .filter(lambda s: "$tag$" not in s)
    .map(lambda s: f"$tag${s}{SECRET}$tag$"),
    st.text(alphabet="abc\\' ", max_size=6).map(
        lambda s: "E'" + s.replace("\\", "\\\\").replace("'", "\\'") + SECRET + "'"
    ),
    st.integers(10**9, 10**12).map(str),
    st.floats(1e9, 1e12).map(repr),
)
words = st.sampled_from(["select", "from", "where", "insert into t values (", ")", ",", "=", "a.b", "$1", "/* note */", "-- note\n", "\n", " and ", "x1", "(", '"Quoted Name"'])  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.one_of(words, literals), max_size=14), st.integers(0, 220), st.booleans())
def test_no_literal_leaves(parts: list[str], cut: int, identifiers: bool) -> None:
    """In any order, cut anywhere, by either dialect."""
    text = " ".join(parts)
    for raw in (text.encode(), text.encode()[:cut]):
        shown = masked(raw, identifiers)
        assert SECRET not in shown
        assert not any(
            word.isdigit() and len(word) > 1 for word in shown.replace("$1", "").replace(".", " ").split()
        ), shown
