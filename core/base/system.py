"""This machine, as the standard library tells of it and as numerical work wants it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from core.base.control_groups import cores_of_quota

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)

# How many threads OpenMP (PyTorch, MXNet) and NumPy's OpenBLAS begin; TensorFlow; XLA.
_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    "PJRT_NPROC",
)


def available_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: those that it may run on, or the worth of a smaller quota, rounded up.

    A container that is started with `--cpus=2` sees all cores of its machine, and is stopped for the rest of
    each tenth of a second once it has used two tenths of a core's time.

    Args:
        root: Where the files of the system begin.
    """
    return min(_cores_to_run_on(), cores_of_quota(root) or sys.maxsize)


def respect_quota(root: Path = Path("/")) -> None:
    """Have libraries that are imported from now on, and processes started, begin no more threads than that.

    By themselves they count the cores to run on. Where no quota is smaller, or a variable is set already,
    nothing changes.
    """
    cores = available_cores(root)
    if cores < _cores_to_run_on():
        for name in _THREADS:
            os.environ.setdefault(name, str(cores))


def _cores_to_run_on() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def multiplies_bfloat16(description: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for products of bfloat16 (AVX512-BF16 or AMX), as Linux tells.

    Without them such products are emulated, and take longer than float32's. Elsewhere than on Linux: no.
    """
    try:
        lines = description.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next array, instead of giving it back to the system.

    By default each array of 32 MiB or more is mapped anew, and every page of it zeroed at its first use,
    which may take longer than the arithmetic. Memory stays at its peak. Elsewhere than on Linux, and with
    other C libraries, nothing happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library, which has no such function
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_MMAP_MAX, 0)
            mallopt(_TRIM_THRESHOLD, -1)


@contextlib.contextmanager
def held_back_stderr() -> Iterator[None]:
    """Keep what is written to standard error, by C++ code too, to itself, unless the block raises.

    That of the whole process, other threads included: only for what takes a moment.
    """
    with _unnamed_file() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(stderr, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _unnamed_file() -> IO[bytes]:
    """In memory where there are such files: a folder for temporary ones may be full, or not there."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.fdopen(os.memfd_create("held"), "w+b")
    return tempfile.TemporaryFile()


@contextlib.contextmanager
def utf8_name(folder: Path) -> Iterator[str]:
    """What to call a folder in a library that takes all names for UTF-8: its name, or else that of a link.

    Names are other bytes where they were made in another encoding, or where this process's is not UTF-8.

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
