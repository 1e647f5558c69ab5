"""bpf/l7/route.h, compiled for the host, and agent/routes.py give one answer."""

from __future__ import annotations

import ctypes as ct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidelight.agent.operations import identify
from sidelight.agent.routes import END, FOLD, TEMPLATES, Templates, route
from tests.fuzz.tables import write_tables
from tests.fuzz.test_programs import HERE, PROGRAMS
from tests.unit.agent.test_routes import TEMPLATES as CHOSEN


class Kernel:
    """The kernel's side."""

    def __init__(self, library: Path, templates: Templates) -> None:
        self._library = ct.CDLL(str(library))
        self._library.routes_find.restype = ct.c_uint32
        steps = templates.steps
        ends = [identify(t.encode())[0] for t in templates.templates]
        segments = np.array([segment for _, segment in steps], np.uint64)
        states = np.array([state for state, _ in steps], np.uint32)
        to = np.array([ends[to - 1] if segment == END else to for (_, segment), to in steps.items()], np.uint32)
        self._library.routes_set(*(ct.c_void_p(column.ctypes.data) for column in (segments, states, to)), len(steps))

    def find(self, line: bytes, bits: int) -> int:
        text = ct.create_string_buffer(256)
        return int(self._library.routes_find(line, len(line), bits, text))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("routes") / "routes.so"
    write_tables(found.parent)
    subprocess.run(
        ["clang", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-function", f"-I{PROGRAMS}", f"-I{HERE}", f"-I{found.parent}", "-o", str(found), str(HERE / "routes.c")],
        check=True,
    )  # fmt: skip
    return found


_SEGMENT = st.one_of(
    st.sampled_from(["users", "me", "static", "app.js", "a", "b", "c", "orders", "", "*"]),
    st.from_regex(r"[0-9]{1,12}", fullmatch=True),
    st.from_regex(r"[0-9a-fA-F]{14,18}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{11,13}", fullmatch=True),
    st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="/ "), max_size=70),
)
_PATH = (
    st.lists(_SEGMENT, min_size=1, max_size=28).map(lambda parts: "/" + "/".join(parts)) | st.just("*") | st.just("a:1")
)


@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_PATH, st.sampled_from(["", "?a=/b/1", "#x"]), st.sampled_from([FOLD, TEMPLATES, FOLD | TEMPLATES]))
def test_kernel_and_python_agree(library: Path, path: str, behind: str, bits: int) -> None:
    templates = Templates((*CHOSEN, "/") if bits & TEMPLATES else ())
    target = (path + behind).encode("latin-1")
    line = b"GET " + target + b" HTTP/1.1\r\n"
    expected = route(target, templates, folding=bool(bits & FOLD))
    wanted = identify(expected.encode("latin-1"))[0] if expected else 0
    assert Kernel(library, templates).find(line[:512], bits) == wanted
