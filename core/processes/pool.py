"""A map over worker processes, with results in order and bounded memory.

`map_in_order` yields one result per item in the order of the items, for any number of workers. At most a few
dozen items per worker are in progress. A worker that dies (a decoder crashes, the system is out of memory)
costs one item, for which `on_crash` makes a result. The other items are processed. Workers ignore Ctrl-C,
which the parent handles. They print nothing at SIGTERM, and they end with the parent, even if it is killed.
When the results are closed, the workers have ended, and so has the generator that gave the items.

`OpenPool` does the same for batches that come at any time: `core.distribution.machines` has one per machine.
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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, util
from typing import Any, Protocol, TypeAlias, TypeVar

from core.processes.workers import WorkerPool, set_up_worker, start_resource_tracker

Item = TypeVar("Item")
Result = TypeVar("Result")

Outcome: TypeAlias = tuple[list[Any], Exception | None]
"""The results of a batch of items up to the first that raises, and its exception."""

_BATCH = 8  # most items that are sent at once; it takes as long as sending one
_BATCHES_PER_WORKER = 3  # in progress
_ENDING = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

# By default glibc returns the memory of each large array to the system, which fills it with zeros before the
# next use: many page faults for each radiograph. Memory above these thresholds is still returned.
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}

# The pool itself is the parallelism. Also, workers are forks of a process that must have no other thread,
# because they would inherit locked locks. NumPy's BLAS starts threads when it is imported.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def warm_up(module: str) -> None:
    """Start the process from which workers are forked, and let it import their function's module.

    This runs in parallel with what the caller does next, for example its own imports.
    """
    _context(module)


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    on_crash: Callable[[Item], Result],
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Generator[Result, None, None]:
    """Apply a function to each item in worker processes.

    Args:
        function: A function of a module (workers look it up by name).
        items: Its arguments. They are taken one by one, a few ahead of the results. A generator is closed
            when the results end or are closed.
        workers: Number of processes.
        on_crash: Makes the result of an item whose process died again when it had this item alone. It is
            called in this process.
        prepare: Called once in each worker, with `arguments`, before any item.
        arguments: See `prepare`.

    Yields:
        The results, in the order of the items.
    """
    with closing_generator(items) as waiting:
        taken = deque[Item]()
        while True:
            try:
                yield from _run(function, waiting, taken, workers, prepare, arguments)
                return
            except BrokenProcessPool:
                # It is unknown which item in progress caused it, so try each in a process of its own.
                died = False
                while taken and not died:
                    result, died = _run_alone(function, taken.popleft(), on_crash, prepare, arguments)
                    yield result
                waiting, taken = itertools.chain(taken, waiting), deque()


@contextlib.contextmanager
def closing_generator(items: Iterable[Item]) -> Iterator[Iterator[Item]]:
    """Iterate over items in a block. If they are a generator, it is closed at the end of the block.

    Python closes a generator when nothing refers to it any more. The traceback of an exception may refer to
    it until the program ends, and a generator that waits for a pool's results keeps that pool's processes.
    """
    try:
        yield iter(items)
    finally:
        if isinstance(items, Generator):
            items.close()


class MapInOrder(Protocol):
    """The type of `map_in_order`, and of what does the same with more machines."""

    def __call__(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        workers: int,
        on_crash: Callable[[Item], Result],
        prepare: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
    ) -> Generator[Result, None, None]:
        """Apply a function to each item; see `map_in_order`."""
        ...


class OpenPool:
    """Worker processes that take batches of items at any time.

    Args:
        function: See `map_in_order`, as for all others.
        workers: Number of processes.
        on_crash: Makes the result of an item whose process died again when it had this item alone.
        prepare: Called once in each worker.
        arguments: The arguments of `prepare`.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        workers: int,
        on_crash: Callable[[Any], Any],
        prepare: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
    ) -> None:
        self._function, self._workers, self._on_crash = function, workers, on_crash
        self._prepare, self._arguments = prepare, arguments
        self._pool: WorkerPool | None = None
        self._batches: dict[int, Sequence[Any]] = {}  # in progress
        self._futures: dict[int, Future[Outcome]] = {}

    def submit(self, number: int, items: Sequence[Any]) -> None:
        """Take a batch of items. Batches are started in the order of their numbers."""
        self._batches[number] = items
        if self._pool is None:
            context = _context(self._function.__module__)
            self._pool = WorkerPool(self._workers, context, _start_worker, (self._prepare, self._arguments))
        with contextlib.suppress(BrokenProcessPool), _interrupts_delayed():  # `finished` will notice
            self._futures[number] = self._pool.submit(_run_batch, self._function, items)

    def finished(self) -> Mapping[int, Outcome]:
        """Return the outcomes that are there by now. It waits only after the death of a worker."""
        found: dict[int, Outcome] = {}
        broken = self._futures.keys() != self._batches.keys()
        for number, future in self._futures.items():
            if future.done():
                try:
                    found[number] = future.result()
                except BrokenProcessPool:
                    broken = True
        for number in found:
            del self._futures[number], self._batches[number]
        if broken or (self._pool is not None and not self._pool.all_alive()):
            found.update(self._done_again())
        return found

    def close(self) -> None:
        """End the workers: at once if they still have a batch, else after they have closed their files."""
        if self._pool is not None:
            if self._batches:
                self._pool.kill()
            self._pool.shutdown(wait=True)
            self._pool = None

    def _done_again(self) -> Iterator[tuple[int, Outcome]]:
        """Process what the broken pool had in progress; after an exception nothing more is needed."""
        assert self._pool is not None
        self._pool.kill()
        self._pool, batches = None, self._batches
        self._batches, self._futures = {}, {}
        again = map_in_order(
            self._function,
            [item for items in batches.values() for item in items],
            workers=self._workers,
            on_crash=self._on_crash,
            prepare=self._prepare,
            arguments=self._arguments,
        )
        with contextlib.closing(again):
            for number, items in batches.items():
                results: list[Any] = []
                try:
                    for _ in items:
                        results.append(next(again))  # noqa: PERF401  results before an exception are kept
                except Exception as error:
                    yield number, (results, error)
                    return
                yield number, (results, None)


def _run_alone(
    function: Callable[[Item], Result],
    item: Item,
    on_crash: Callable[[Item], Result],
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> tuple[Result, bool]:
    """Return the result of one item, and whether its process died."""
    try:
        (result,) = _run(function, iter([item]), deque(), 1, prepare, arguments)
    except BrokenProcessPool:
        return on_crash(item), True
    return result, False


def _run(
    function: Callable[[Item], Result],
    waiting: Iterator[Item],
    taken: deque[Item],
    workers: int,
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> Iterator[Result]:
    """Run one pool from start to end. `taken` holds the items whose results are not yet yielded.

    Raises:
        BrokenProcessPool: A worker died. The items in `taken` have to be processed again.
    """
    context = _context(function.__module__)
    pool = WorkerPool(workers, context, _start_worker, (prepare, arguments))
    batches = in_batches(waiting, workers * _BATCHES_PER_WORKER)
    in_progress: deque[Future[tuple[list[Result], Exception | None]]] = deque()

    def submit(count: int) -> None:
        for batch in itertools.islice(batches, count):
            taken.extend(batch)
            with _interrupts_delayed():  # this may start a worker
                in_progress.append(pool.submit(_run_batch, function, batch))

    try:
        submit(workers * _BATCHES_PER_WORKER)
        while in_progress:
            results, error = pool.result(in_progress.popleft())
            submit(1)
            for result in results:
                taken.popleft()  # only now, as `submit` may find the pool broken
                yield result
            if error is not None:
                raise error
    except BaseException:
        # What ends this process may have ended workers too, at any moment. The others could wait for ever.
        pool.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_batches(waiting: Iterator[Item], parts: int) -> Iterator[list[Item]]:
    """Yield the items in batches that become smaller towards the end, so that all workers finish together.

    If the number of items is unknown, as for a generator, a batch has one item: the next may come late.
    """
    while batch := list(itertools.islice(waiting, min(_BATCH, 1 + operator.length_hint(waiting) // parts))):
        yield batch


def _run_batch(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> tuple[list[Result], Exception | None]:
    """In a worker, return the results of some items up to the first that raises, and its exception."""
    results: list[Result] = []
    try:
        for item in items:
            results.append(function(item))  # noqa: PERF401  results before an exception are returned
    except Exception as error:
        return results, error
    return results, None


def _context(module: str) -> Any:
    """Return the way to start workers. It is never "fork", as the caller may have threads."""
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods or not _has_socket_folder():
        return multiprocessing.get_context("spawn")  # slower, as each worker imports for itself
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])  # imported once, not by each worker
    start_resource_tracker()  # it unblocks SIGINT, so call it before interrupts are delayed
    # The server gets its `sys.path` only after its preloads. Without PYTHONPATH it would import another copy
    # of the project, for example an installed one, or none. Without PYTHONSAFEPATH it would import a core.py
    # in the working folder.
    with (
        _interrupts_delayed(),
        _environment(PYTHONPATH=os.pathsep.join(sys.path), PYTHONSAFEPATH="1", **_KEEP_MEMORY, **_ONE_THREAD),
    ):
        forkserver.ensure_running()
    return context


@functools.cache
def _has_socket_folder() -> bool:
    """Make `multiprocessing` create its temporary folder where sockets are possible; return False if nowhere.

    The path of a socket has at most 107 bytes (unix(7); 103 on macOS). Before Python 3.14, `multiprocessing`
    uses the folder for temporary files (TMPDIR) even if its path is too long.
    """
    before = tempfile.tempdir
    try:
        for folder in _temporary_folders():
            if _allows_sockets(folder):
                tempfile.tempdir = folder
                util.get_temp_dir()
                return True
        return False
    finally:
        tempfile.tempdir = before


def _temporary_folders() -> Iterator[str]:
    """Yield folders for temporary files: the usual one first, then some with short paths."""
    with contextlib.suppress(OSError):  # no folder can be written, not even the working folder
        yield tempfile.gettempdir()
    yield from ("/tmp", "/var/tmp", "/usr/tmp")
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        yield own
    yield "/dev/shm"


def _allows_sockets(parent: str) -> bool:
    """Whether a socket can be made at a path as `multiprocessing` would choose it."""
    try:
        made, trial = tempfile.TemporaryDirectory(prefix="pymp-", dir=parent), socket.socket(socket.AF_UNIX)
        with made as folder, trial:
            trial.bind(f"{folder}/listener-12345678")
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _interrupts_delayed() -> Iterator[None]:
    """Delay Ctrl-C, and SIGTERM and SIGHUP if they have handlers, until the end of the block.

    Processes started in the block inherit the blocked Ctrl-C. Otherwise a process that is still starting
    would print a traceback. Blocking alone is not enough in this process: another thread may receive the
    signal, and Python then still interrupts the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python interrupts the main thread only
        return
    received: list[int] = []
    numbers = {signal.SIGINT, *filter(_has_handler, _ENDING)}
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers
    }
    mask = _block_interrupts()
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if received:
            signal.raise_signal(received[0])


def _has_handler(number: signal.Signals) -> bool:
    """Whether the program has a handler of its own for a signal."""
    return callable(signal.getsignal(number))


def _block_interrupts() -> set[signal.Signals] | None:
    """Block SIGINT for this thread, and return the signals blocked before; None if it cannot be blocked."""
    if not hasattr(signal, "pthread_sigmask"):
        return None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return {signal.Signals(number) for number in before}


def _start_worker(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up_worker()
    gc.freeze()  # imported objects stay, so the garbage collector need not search them again and again
    warnings.simplefilter("ignore")  # a library's warnings would break the progress bar; errors are reported
    logging.disable(logging.CRITICAL)
    if prepare is not None:
        prepare(*arguments)
