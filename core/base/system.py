"""Properties and settings of this machine and process: cores, memory, standard error, folder names."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from core.base.control_groups import cores_of_quota

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)

# The numbers of threads of OpenMP (PyTorch, MXNet) and NumPy's OpenBLAS, of TensorFlow, and of XLA.
_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    "PJRT_NPROC",
)


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use: its affinity, or a smaller quota, rounded up.

    A container that is started with `--cpus=2` sees all cores of its machine. In each tenth of a second it is
    stopped when it has used two tenths of a second of processor time.

    Args:
        root: The root of the file system.
    """
    return min(_cores_to_run_on(), cores_of_quota(root) or sys.maxsize)


def limit_threads_to_quota(root: Path = Path("/")) -> None:
    """Limit the threads of libraries that are imported later, and of new processes, to `available_cores`.

    By default they use the affinity. If no quota is smaller, or a variable is set already, nothing changes.
    """
    cores = available_cores(root)
    if cores < _cores_to_run_on():
        for name in _THREADS:
            os.environ.setdefault(name, str(cores))


def use_cores(cores: Sequence[int]) -> None:
    """Run this process on these cores, and limit the threads of libraries that are imported later to them."""
    with contextlib.suppress(OSError):  # some sandboxes do not allow it; the threads are limited even so
        os.sched_setaffinity(0, cores)
    for name in _THREADS:
        os.environ[name] = str(len(cores))


def idlest_cores(cores: Sequence[int], seconds: float = 0.1) -> list[int]:
    """Return these cores in another order: those first that were idle for longest in the next moment.

    Equally idle ones keep their order, as all do on systems other than Linux.

    Args:
        cores: The numbers of some cores.
        seconds: How long to look.
    """
    before = _idle_ticks()
    time.sleep(seconds)
    return by_idleness(cores, before, _idle_ticks())


def by_idleness(cores: Sequence[int], before: Mapping[int, int], after: Mapping[int, int]) -> list[int]:
    """Return cores sorted by the time that they were idle between two counts of `_idle_ticks`."""
    return sorted(cores, key=lambda core: before.get(core, 0) - after.get(core, 0))


def _idle_ticks() -> dict[int, int]:
    """Return for each core how long it was idle since the start of the system (proc(5), /proc/stat)."""
    with contextlib.suppress(OSError):
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        return {int(row[0][3:]): int(row[4]) for row in rows if re.fullmatch(r"cpu\d+", row[0])}
    return {}


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, where the system can (Linux: proc(5), clear_refs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Return the most bytes of memory that this process held; None where the system does not tell."""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(found[0]) * 1024 if found else None
    return None


def _cores_to_run_on() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def multiplies_bfloat16(description: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for products of bfloat16 (AVX512-BF16 or AMX).

    Without them such products are emulated and slower than those of float32. False on systems other than
    Linux.
    """
    try:
        lines = description.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next array instead of returning it to the system.

    By default each array of 32 MiB or more is mapped anew, and every page is zeroed at its first use, which
    may take longer than the arithmetic. Memory use stays at its peak. Nothing changes on systems other than
    Linux or with other C libraries.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library without this function
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_MMAP_MAX, 0)
            mallopt(_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Return to the system what was freed so far; `keep_freed_memory` goes on for what is freed later."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library without this function
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def hidden_stderr() -> Iterator[None]:
    """Discard what the block writes to standard error, by C++ code too, unless the block raises.

    This affects the whole process with all its threads, so use it for short blocks only.
    """
    with _unnamed_file() as hidden:
        stderr = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(stderr, 2)
            hidden.seek(0)
            sys.stderr.write(hidden.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _unnamed_file() -> IO[bytes]:
    """Open a file in memory if the system has such files: the folder for temporary files may be full."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.fdopen(os.memfd_create("hidden"), "w+b")
    return tempfile.TemporaryFile()


@contextlib.contextmanager
def utf8_name(folder: Path) -> Iterator[str]:
    """Yield a UTF-8 path of a folder, for a library that takes all paths for UTF-8.

    If the folder's own path is not UTF-8 (another encoding in the file system or in this process), it is the
    path of a temporary link.

    Raises:
        OSError: No link can be made.
    """
    name = str(folder)
    if os.fsencode(name) == name.encode("utf-8", "surrogatepass"):
        yield name
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "link"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield str(link)
