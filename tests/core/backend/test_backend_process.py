"""The process of a framework ends with its parent, and Ctrl-C, sent to both processes, ends it silently."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import interruptible, wait_until_ended

from core.backend.contract import Implementation
from core.backend.process import BackendProcess
from core.base.errors import UserError

_PROGRAM = """
import os, sys, time
from core.backend.process import BackendProcess

def ready(implementation):
    return os.getpid()

if __name__ == "__main__":
    with BackendProcess("reference") as process:
        print("begun", flush=True)
        pid = process.call(ready)
        print("ready", pid, flush=True)
        time.sleep(60)
"""


def started(folder: Path) -> subprocess.Popen[str]:
    """Start the program above."""
    program = folder / "program.py"
    program.write_text(_PROGRAM)
    with interruptible():
        return subprocess.Popen(
            [sys.executable, str(program)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def line_of(process: subprocess.Popen[str], word: str) -> list[str]:
    """Read up to the line that begins with `word`; return its words."""
    assert process.stdout is not None
    while (words := process.stdout.readline().split())[:1] != [word]:
        assert process.poll() is None
    return words


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX's")
@pytest.mark.parametrize(("word", "delay_s"), [("begun", 0.05), ("begun", 0.2), ("ready", 0.0)])
def test_ctrl_c_ends_the_process_without_a_word(tmp_path: Path, word: str, delay_s: float) -> None:
    process = started(tmp_path)
    line_of(process, word)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert said.count("Traceback") == 1, said  # this program's own; the commands turn it into one line
    assert "SpawnProcess" not in said
    assert "KeyboardInterrupt" in said


def test_the_process_ends_with_a_killed_parent(tmp_path: Path) -> None:
    """Otherwise it would keep the framework's memory forever."""
    process = started(tmp_path)
    _, pid = line_of(process, "ready")
    process.kill()
    process.wait()
    wait_until_ended([int(pid)])


def sleep(_: Implementation) -> None:
    time.sleep(300)


def sleep_at_the_end(_: Implementation) -> int:
    atexit.register(time.sleep, 300)
    return os.getpid()


def test_a_call_that_gets_no_answer_is_an_error_and_the_end() -> None:
    began = time.monotonic()
    with (
        pytest.raises(UserError, match=r"'reference' did not answer within 0\.5 s"),
        BackendProcess("reference", timeout_s=0.5) as process,
    ):
        process.call(sleep)
    assert time.monotonic() - began < 30


def test_a_framework_that_does_not_come_to_its_end_is_ended() -> None:
    with BackendProcess("reference") as process:
        pid = process.call(sleep_at_the_end)
        began = time.monotonic()
    assert time.monotonic() - began < 30
    wait_until_ended([pid])


def test_it_may_be_closed_twice_and_unused() -> None:
    process = BackendProcess("reference")
    process.close()
    process.close()
