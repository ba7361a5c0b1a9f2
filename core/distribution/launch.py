"""Start a command line as several workers on this machine, and give each of them its cores.

`run_workers` starts the command line again by MPI's `mpiexec`. On clusters the users' own `mpiexec` or `srun`
starts it. In either case each worker `connect`s. This module imports no NumPy, whose threads start when it is
imported, before `connect` has chosen the cores.

Sources: mpiexec(1) of MPICH (Hydra); prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from core.base.errors import UserError
from core.base.programs import installation
from core.base.system import idlest_cores, use_cores

if TYPE_CHECKING:
    from mpi4py.MPI import Comm

    from core.distribution.mpi import MPIExchange

_LAUNCHERS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
_NUMBERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # of processes, the nearest first
_FORWARDED = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
_PARENT_DIED = 1  # PR_SET_PDEATHSIG

_NOISE = re.compile(
    r"^(=+|=   .*|\[mpiexec@.*|Abort\(\d+\) on node .*|This typically refers .*|Please see .*)$"
)
_PLACE = re.compile(r"^=   PID \d+ RUNNING AT (\S+)")  # of any process that ended, not always the first
_REASON = re.compile(r"^YOUR APPLICATION TERMINATED WITH THE EXIT STRING: (.+?)\s*$")


def is_started_by_mpi() -> bool:
    """Tell whether `mpiexec`, or a cluster's command in its place, has started this process."""
    return any(name in os.environ for name in _LAUNCHERS)


def has_started_several() -> bool:
    """Tell whether the process is one of several that `mpiexec`, or a command in its place, has started."""
    numbers = [os.environ[name] for name in _NUMBERS if name in os.environ]
    return is_started_by_mpi() and numbers[:1] != ["1"]


def connect(limit_s: float, threads: int | None = None, *, survive: bool = False) -> MPIExchange:
    """Choose the cores of this worker, then return its connection with the other workers.

    Args:
        limit_s: The time limit of the watch: see `core.distribution.mpi`.
        threads: Number of cores of each worker. By default the workers of a machine share its cores equally,
            unless whatever started them has given each its own.
        survive: Whether the work can go on without a lost worker: see there.

    Raises:
        UserError: mpi4py or MPI's library is not installed.
    """
    _require_mpi("several workers")
    from mpi4py import MPI

    machine = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    place, workers = machine.Get_rank(), machine.Get_size()
    _take_names_from_shared_memory(machine)
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        shared = workers > 1 and len({tuple(found) for found in machine.allgather(cores)}) == 1
        if threads is None:
            threads = max(len(cores) // workers, 1) if shared else len(cores)
        if workers == 1 and threads < len(cores):  # beside other work, which may have taken the first ones
            cores = idlest_cores(cores)
        first = place * threads if shared else 0
        use_cores([cores[(first + number) % len(cores)] for number in range(threads)])
    from core.distribution.mpi import MPIExchange

    return MPIExchange(limit_s, survive=survive)


def _take_names_from_shared_memory(machine: Comm) -> None:
    """Remove the files of MPICH's shared memory, which all workers of a machine have opened by now.

    The memory stays as long as a process has it. MPICH removes the files at its end, but not if it is killed.
    """
    machine.Barrier()
    maps = Path("/proc/self/maps")
    if machine.Get_rank() == 0 and maps.is_file():
        for name in set(re.findall(r"(?<= )/dev/shm/mpich_shm\S*$", maps.read_text(), re.MULTILINE)):
            Path(name).unlink(missing_ok=True)


def run_workers(workers: int) -> int:
    """Run this process's command line as several workers on this machine; return its exit status.

    Signals are passed on. MPI's report on a worker that ended by itself becomes one line.

    Raises:
        UserError: There is no `mpiexec`.
    """
    command = worker_command([[sys.executable, *sys.orig_argv[1:]]] * workers)
    report = _Report()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:surrogateescape"},
        start_new_session=True,  # so that a terminal's Ctrl-C arrives once
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    ) as process:
        streams = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        threads = [threading.Thread(target=report.copy, args=pair) for pair in streams]
        for thread in threads:
            thread.start()
        with _signals_forwarded(process):
            for thread in threads:
                thread.join()
            status = process.wait()
    if (reason := report.reason) is not None:
        print(f"error: {reason}", file=sys.stderr)
    return 1 if reason is not None or status < 0 else status


def worker_command(words: Sequence[Sequence[str]]) -> list[str]:
    """Return the command that starts workers on this machine, each with a command line of its own.

    Raises:
        UserError: mpi4py is not installed, or there is no `mpiexec`.
    """
    _require_mpi("--workers")
    command = [find_mpiexec()]
    for line, same in itertools.groupby(words):
        command += ["-n", str(len(list(same))), *line, ":"]
    return command[:-1]


def find_mpiexec() -> str:
    """Return the path of `mpiexec`: the environment's own, which belongs to its library, or the system's."""
    own = Path(sys.executable).with_name("mpiexec")
    found = str(own) if own.is_file() else shutil.which("mpiexec")
    if found is None:
        raise UserError("--workers needs MPI's mpiexec, which was not found", f"Run: {installation('mpi')}")
    return found


def _require_mpi(what: str) -> None:
    if importlib.util.find_spec("mpi4py") is None:
        raise UserError(f"{what} needs mpi4py, which is not installed", f"Run: {installation('mpi')}")


def _end_with_parent() -> None:
    """Make the system end this process when its parent ends, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGTERM)


@contextlib.contextmanager
def _signals_forwarded(process: subprocess.Popen[str]) -> Iterator[None]:
    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in set(_FORWARDED)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Report:
    """The lines of all workers, without those of `mpiexec`, which tell why a worker ended."""

    def __init__(self) -> None:
        self._worker, self._ending, self._has_error = "a worker", "", False

    @property
    def reason(self) -> str | None:
        """The reason why a worker ended without a word; None if none did."""
        return f"{self._worker} ended: {self._ending}" if self._ending and not self._has_error else None

    def copy(self, lines: Iterable[str], to: IO[str]) -> None:
        """Print the workers' lines as they come."""
        for line in lines:
            text = line.rstrip("\n")
            if found := _PLACE.match(text):
                self._worker = f"a worker on {found[1]}"
            elif found := _REASON.match(text):
                self._ending = found[1]
            elif text == "" or not _NOISE.match(text):
                self._has_error |= text.startswith("error:")
                print(text, file=to, flush=True)
