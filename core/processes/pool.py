"""Work spread over processes, with results in order and memory bounded.

Promises: `map_in_order` yields one result an item in the items' order, whatever the number of workers,
with at most a few dozen items per worker under way. A worker that dies (a decoder's crash, the system's
memory killer) costs one item, which `crashed` turns into a result; the rest goes on. Workers ignore
Ctrl-C, which is the parent's to handle, end in silence at SIGTERM, and end with the parent even if it is
killed.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import logging
import multiprocessing
import operator
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, util
from typing import Any, TypeVar

from core.processes.workers import Workers, begin_work, start_tracker

Item = TypeVar("Item")
Result = TypeVar("Result")

_BATCH = 8  # items handed over at once, at most: it costs as much as for one
_UNDER_WAY = 3  # batches per worker
_ENDING = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

# glibc gives the memory of each large array back to the system, which fills it with zeros before it lends it
# again: 1,100 page faults a radiograph, a third of all the time. (What is larger yet is still given back.)
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}

# The parallelism is the pool's. And workers are forks of a process that must have no other thread, whose
# locks they would inherit as they are: NumPy's BLAS begins some when it is imported.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def warm_up(module: str) -> None:
    """Have the process that workers come from begin to import their function's module.

    It goes on beside whatever the caller does next: its own imports, say, which take as long.
    """
    _context(module)


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    crashed: Callable[[Item], Result],
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Generator[Result, None, None]:
    """Apply a function to each item in other processes.

    Args:
        function: A module's function (it is looked up by name in the workers).
        items: What to apply it to; taken one by one, a few ahead of what was yielded.
        workers: Processes.
        crashed: The result, made here, for an item whose process died on it even when alone.
        prepare: Called once in each worker, with `arguments`, before any item.
        arguments: See `prepare`.

    Yields:
        The results, in the order of the items.
    """
    waiting, taken = iter(items), deque[Item]()
    while True:
        try:
            yield from _run(function, waiting, taken, workers, prepare, arguments)
            return
        except BrokenProcessPool:
            # Which of the items under way did it is not known: try each of them alone.
            died = False
            while taken and not died:
                result, died = _alone(function, taken.popleft(), crashed, prepare, arguments)
                yield result
            waiting, taken = itertools.chain(taken, waiting), deque()


def _alone(
    function: Callable[[Item], Result],
    item: Item,
    crashed: Callable[[Item], Result],
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> tuple[Result, bool]:
    """The result of one item, and whether its process died on it."""
    try:
        (result,) = _run(function, iter([item]), deque(), 1, prepare, arguments)
    except BrokenProcessPool:
        return crashed(item), True
    return result, False


def _run(
    function: Callable[[Item], Result],
    waiting: Iterator[Item],
    taken: deque[Item],
    workers: int,
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> Iterator[Result]:
    """One pool from start to end; `taken` holds the items whose results are not yet yielded.

    Raises:
        BrokenProcessPool: A worker died; the items in `taken` are to be done again.
    """
    context = _context(function.__module__)
    pool = Workers(workers, context, _start_worker, (prepare, arguments))
    batches = _batches(waiting, workers * _UNDER_WAY)
    under_way: deque[Future[tuple[list[Result], Exception | None]]] = deque()

    def take(most: int) -> None:
        for batch in itertools.islice(batches, most):
            taken.extend(batch)
            with _uninterrupted():  # a worker may start with it
                under_way.append(pool.submit(_each, function, batch))

    try:
        take(workers * _UNDER_WAY)
        while under_way:
            results, error = pool.result(under_way.popleft())
            take(1)
            for result in results:
                taken.popleft()  # not before: `take` may find the pool broken
                yield result
            if error is not None:
                raise error
    except BaseException:
        # Whoever ends this process in the middle may have ended workers too, at whatever moment; those that
        # are left could wait for them for ever.
        pool.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _batches(waiting: Iterator[Item], shares: int) -> Iterator[list[Item]]:
    """The items in batches, smaller ones towards the end, so that all workers finish together.

    Where nobody knows how many there are, as of a generator, one by one: they may be slow to come.
    """
    while batch := list(itertools.islice(waiting, min(_BATCH, 1 + operator.length_hint(waiting) // shares))):
        yield batch


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> tuple[list[Result], Exception | None]:
    """In a worker: the results of some items, up to the first that raises."""
    results: list[Result] = []
    try:
        for item in items:
            results.append(function(item))  # noqa: PERF401  what was done before an exception counts
    except Exception as error:
        return results, error
    return results, None


def _context(module: str) -> Any:
    """Never fork: the caller may have threads (a framework's, a reader's) that would not survive."""
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods or not _has_place_for_socket():
        return multiprocessing.get_context("spawn")  # slower: each worker imports for itself
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])  # its imports are then paid once, not by each worker
    start_tracker()  # it unblocks SIGINT when it has started
    # It is told its `sys.path` only after what it preloads: it would take another copy of the project, one
    # that is installed, say, and the workers with it; or find none, and be slow. Nor is it to take a core.py
    # of the working folder, where it would look first.
    with (
        _uninterrupted(),
        _environment(PYTHONPATH=os.pathsep.join(sys.path), PYTHONSAFEPATH="1", **_KEEP_MEMORY, **_ONE_THREAD),
    ):
        forkserver.ensure_running()
    return context


@functools.cache
def _has_place_for_socket() -> bool:
    """Have `multiprocessing` make its temporary folder, once, where a socket can be; False if nowhere can.

    The path of a socket has at most 107 bytes (unix(7); 103 on macOS), and by itself `multiprocessing` takes
    the folder for temporary files (TMPDIR), however long it is; as of Python 3.14 one of the system's then.
    """
    before = tempfile.tempdir
    try:
        for place in _places():
            if _takes_sockets(place):
                tempfile.tempdir = place
                util.get_temp_dir()
                return True
        return False
    finally:
        tempfile.tempdir = before


def _places() -> Iterator[str]:
    """Folders for temporary files: the usual one, then such as have short names."""
    with contextlib.suppress(OSError):  # no folder can be written, this one included
        yield tempfile.gettempdir()
    yield from ("/tmp", "/var/tmp", "/usr/tmp")
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        yield own
    yield "/dev/shm"


def _takes_sockets(place: str) -> bool:
    """Whether a socket can be made where `multiprocessing` would make one."""
    try:
        made, trial = tempfile.TemporaryDirectory(prefix="pymp-", dir=place), socket.socket(socket.AF_UNIX)
        with made as folder, trial:
            trial.bind(f"{folder}/listener-12345678")
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Give processes that are started meanwhile some variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off a Ctrl-C until the end of the block, and any other signal that is an exception here.

    Processes started meanwhile inherit the blocked Ctrl-C. Otherwise one that is still starting,
    or is being told what to do, prints a traceback of its own. Blocking alone is not enough here:
    another thread may take the signal, and Python then still interrupts the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    came: list[int] = []
    numbers = {signal.SIGINT, *filter(_raises, _ENDING)}
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    mask = _block_interrupts()
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])


def _raises(number: signal.Signals) -> bool:
    """Whether the program has a handler of its own for a signal."""
    return callable(signal.getsignal(number))


def _block_interrupts() -> set[signal.Signals] | None:
    """Block SIGINT for this thread, and return what was blocked before; None if it cannot be."""
    if not hasattr(signal, "pthread_sigmask"):
        return None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return {signal.Signals(number) for number in before}


def _start_worker(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin_work()
    gc.freeze()  # what was imported stays: searching all of it for garbage, over and over, finds none
    warnings.simplefilter("ignore")  # a library's remarks would tear the progress bar; errors count
    logging.disable(logging.CRITICAL)
    if prepare is not None:
        prepare(*arguments)
