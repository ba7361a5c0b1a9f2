"""A framework's own process at Ctrl-C, which a terminal sends to every process of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_PROGRAM = """
import sys, time
from core.isolation import Isolated

def ready(implementation):
    return 1

if __name__ == "__main__":
    with Isolated("reference") as process:
        print("begun", flush=True)
        process.call(ready)
        print("ready", flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX's")
@pytest.mark.parametrize(("word", "delay_s"), [("begun", 0.05), ("begun", 0.2), ("ready", 0.0)])
def test_ctrl_c_ends_the_process_without_a_word(tmp_path: Path, word: str, delay_s: float) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != word:
        assert process.poll() is None
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert said.count("Traceback") == 1, said  # this program's own; the commands turn it into one line
    assert "SpawnProcess" not in said
    assert "KeyboardInterrupt" in said
