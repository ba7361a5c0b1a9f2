"""Start trainings by several workers, and find their processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from command_line import started


@contextlib.contextmanager
def started_team(
    cwd: Path, words: Sequence[str], until: str = "epoch "
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a training by several workers; kill all at the end of the block.

    Args:
        cwd: The working folder.
        words: The command line.
        until: A pattern of the line of output at which the block begins.

    Yields:
        The process that was started, and the number of each worker's process.
    """
    workers: list[int] = []
    with started(cwd, words) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.match(r"worker \d+ on \S+ \(process (\d+)\)", line):
                    workers.append(int(found[1]))
                if re.match(until, line):
                    break
            yield process, workers
        finally:
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
