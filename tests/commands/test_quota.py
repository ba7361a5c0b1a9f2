"""A CPU quota limits the threads of every library that a command imports."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import ROOT, run

# Simulate a system with 5 processors and a quota of 2; print what NumPy finds when it is imported.
SYSTEM = """
import os, sys
import core.base.control_groups
core.base.control_groups.cores_of_quota = lambda root: 2
os.sched_getaffinity = lambda process: set(range(5))
def hear(event, arguments):
    if event == "import" and arguments[0] == "numpy":
        print("NumPy finds", os.environ.get("OPENBLAS_NUM_THREADS"), file=sys.stderr)
sys.addaudithook(hear)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="it is that which the test replaces")
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("run.py", ["check", "s.csv"]),
        ("run.py", ["predict", "-f", "reference", "--images", "none"]),
        ("run.py", ["-f", "reference", "--data", "none.h5"]),
        ("preprocess.py", ["verify", "none.h5"]),
    ],
)
def test_libraries_find_the_quota(tmp_path: Path, program: str, words: list[str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(SYSTEM)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = run(*words, program=program, cwd=tmp_path, env={"PYTHONPATH": path})
    assert done.stderr.startswith("NumPy finds 2\n"), done.stderr
    assert "NumPy finds None" not in done.stderr
