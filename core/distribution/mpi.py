"""Exchange between processes and machines by MPI (mpi4py), and the watch that ends all when one fails.

MPI itself ends all workers when a process ends without a word. The watch notices the rest. Each second every
worker sends a sign of life to worker 0, and worker 0 to all. A worker that hears nothing for the time limit,
or waits ten times as long for a result of the others, ends the run: it prints one line and aborts.

Work that consists of many independent parts can go on without a lost worker (`core.distribution.machines`).
It does if MPI goes on too, which Open MPI's `mpiexec --with-ft ulfm` does: a worker that ends or is silent is
then `Lost` to worker 0, and only the loss of worker 0 ends all.

Sources: MPI: A Message-Passing Interface Standard, version 4.1, chapters 6 (collective communication) and
11 (threads, abort); Bland et al., Post-failure recovery of MPI communication capability (ULFM), 2013.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from core.backend.contract import ExchangeError
from core.base.errors import UserError
from core.distribution.exchange import Lost

_GONE = MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING
_SURVIVAL = "OMPI_MCA_mpi_ft_enable"  # set by Open MPI's `mpiexec --with-ft ulfm`

_BEAT_S = 1.0
_PATIENCE = 10  # time limits that a worker waits for a result, for which the others may have to compile
_BUSY_S, _PAUSE_S = 0.02, 0.002  # waiting for a command: so long at once, then with pauses
_PRINTING_S = 0.2  # for `mpiexec` to print a worker's reason, before it is asked to end all
_LAST_WORDS_S = 3.0  # for MPI to end all workers, before this one ends by itself
_REASON_S = 5.0  # for the worker that failed first to tell its reason, or for MPI to notice that it is gone


class MPIExchange:
    """`Exchange` and `Messages` of `core.distribution.exchange` between the processes that MPI has started.

    As a context manager it keeps the watch, and ends MPI for all workers together: worker 0 gives the command
    `None`, and a worker that has not taken it yet takes it then. If a worker has an error, all of them end:
    by that command if worker 0 has it while the others wait for one, else by aborting.

    Args:
        limit_s: The time limit: see the module.
        survive: Whether the work can go on without a lost worker. Then its workers use `send` and `receive`
            alone, and say to each other when the work has ended.
    """

    def __init__(self, limit_s: float, *, survive: bool = False) -> None:
        self._world, beats, self._messages = (MPI.COMM_WORLD.Dup() for _ in range(3))
        self._sending: list[Any] = []
        self.worker = int(self._world.Get_rank())
        self.hosts: Sequence[str] = tuple(self._world.allgather(socket.gethostname()))
        self.place = self.hosts[: self.worker].count(self.hosts[self.worker])
        """The number of this worker among those of its machine, from 0."""
        self._limit_s, self.patience_s = limit_s, _PATIENCE * limit_s
        """How long a worker waits for a result of the others."""
        self._survives = survive and os.environ.get(_SURVIVAL) == "1"
        self._losses = _Losses(self.hosts, self._lose, survives=self._survives)
        self._watch = _Watch(beats, self.worker, self.hosts, limit_s, self.fail, self._losses)
        self._inside = self._is_over = False
        self._at_end: list[Callable[[], None]] = []

    def __enter__(self) -> MPIExchange:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (self._inside or self.worker > 0):
            if isinstance(error, ExchangeError):
                time.sleep(_REASON_S)
            if not isinstance(error, UserError | KeyboardInterrupt):
                traceback.print_exception(error)
            self.fail(str(error) or "interrupted")
        if not self._is_over and not self._survives:
            self.command(None)
        for action in self._at_end:
            action()
        self._finish()

    def _finish(self) -> None:
        """End MPI; wait for the other workers no longer than the time limit."""
        end = self._end_after(self._limit_s, "lost the others at the very end")
        self._watch.stop(together=not self._survives)
        MPI.Finalize()
        end.cancel()

    def command(self, command: Any = None) -> Any:
        """Return what worker 0 gave; see `Exchange`."""
        with self._exchanging(is_limited=self.worker == 0):
            self._wait_idly(self._world.Ibarrier())
            received = self._world.bcast(command, root=0)
        self._is_over = received is None
        return received

    def collect(self, answer: Any) -> list[Any]:
        """Return the answers of all workers on worker 0; see `Exchange`."""
        with self._exchanging():
            return list(self._world.gather(answer, root=0) or ())

    def scatter(self, array: NDArray[Any], send: Sequence[int], receive: Sequence[int]) -> list[NDArray[Any]]:
        """Send a part to each worker; see `Exchange`."""
        received = np.empty(sum(receive), array.dtype)
        with self._exchanging():
            self._world.Alltoallv([array, send], [received, receive])
        return np.split(received, np.cumsum(receive)[:-1])

    def join(self, part: NDArray[Any], lengths: Sequence[int]) -> NDArray[Any]:
        """Return the parts of all workers; see `Exchange`."""
        joined = np.empty(sum(lengths), part.dtype)
        with self._exchanging():
            self._world.Allgatherv(part, [joined, lengths])
        return joined

    def send(self, message: Any, worker: int) -> None:
        """Begin to send an object; see `Messages`."""
        self._go_on_sending()
        with self._losses.noted(self._messages):
            self._sending.append(self._messages.isend(message, worker))

    def receive(self) -> tuple[int, Any] | None:
        """Return the next object and its sender, or None; see `Messages`."""
        self._go_on_sending()
        status = MPI.Status()
        with self._losses.noted(self._messages):
            if self._messages.Iprobe(status=status):
                return status.Get_source(), self._messages.recv(source=status.Get_source())
        lost = self._losses.next()
        return None if lost is None else (lost, Lost())

    def at_end(self, action: Callable[[], None]) -> None:
        """Call a function when the work has ended in order; see `Workers`."""
        self._at_end.append(action)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which all workers rely on each other; see `Exchange`."""
        return self._exchanging(is_limited=False)

    def fail(self, reason: str) -> NoReturn:
        """Print one line with the reason and end all workers."""
        self._tell(reason)
        time.sleep(_PRINTING_S)
        self._end_after(_LAST_WORDS_S)  # this worker may have lost the link to the others
        try:
            MPI.COMM_WORLD.Abort(1)
        finally:  # MPI may take a moment; nothing else is to be done or said meanwhile
            while True:
                time.sleep(_LAST_WORDS_S)

    def _tell(self, reason: str) -> None:
        host = self.hosts[self.worker]
        print(f"error: worker {self.worker} on {host}: {reason}", file=sys.stderr, flush=True)

    def _end_after(self, seconds: float, reason: str | None = None) -> threading.Timer:
        """Begin to wait, and then end this process alone; return the timer, which can be cancelled."""

        def end() -> None:
            if reason is not None:
                self._tell(reason)
            os._exit(1)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        return timer

    @staticmethod
    def _wait_idly(request: MPI.Request) -> None:
        """Wait without using a core for long: MPI's own waiting does, and worker 0 may need minutes."""
        began = time.monotonic()
        while not request.Test():
            if time.monotonic() - began > _BUSY_S:
                time.sleep(_PAUSE_S)

    def _go_on_sending(self) -> None:
        self._sending = self._losses.unsent(self._sending, self._messages)

    def _lose(self, worker: int, reason: str) -> None:
        """Go on without a worker, or end."""
        if not self._survives:
            self.fail(reason)
        if worker == 0:
            self._tell(reason)
            os._exit(1)
        if self.worker == 0:
            print(f"warning: {reason}; the others do its work", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _exchanging(self, *, is_limited: bool = True) -> Iterator[None]:
        outside = not self._inside
        self._inside = True
        with self._watch.waiting() if is_limited else contextlib.nullcontext():
            yield  # after an error `_inside` stays True
        if outside:
            self._inside = False


class _Losses:
    """The workers that are gone.

    Args:
        hosts: The machine of each worker.
        lose: Called once with each of them and the reason.
        survives: Whether MPI goes on without them.
    """

    def __init__(self, hosts: Sequence[str], lose: Callable[[int, str], None], *, survives: bool) -> None:
        self._hosts, self._lose, self._survives = hosts, lose, survives
        self._known, self._waiting = set[int](), deque[int]()

    def __contains__(self, worker: int) -> bool:
        return worker in self._known

    def add(self, worker: int, reason: str) -> None:
        """Note that a worker is gone."""
        if worker not in self._known:
            self._known.add(worker)
            self._lose(worker, reason)
            self._waiting.append(worker)

    def next(self) -> int | None:
        """Return, once, a worker that is gone; None if there is none."""
        return self._waiting.popleft() if self._waiting else None

    @contextlib.contextmanager
    def noted(self, messages: MPI.Intracomm) -> Iterator[None]:
        """Note the workers that are found to be gone in the block, which then ends early."""
        try:
            yield
        except MPI.Exception as error:
            if not self._survives or error.Get_error_class() not in _GONE:
                raise
            gone = messages.Get_failed()
            messages.Ack_failed(gone.Get_size())  # errors are about others from now on
            for worker in gone.Translate_ranks(None, messages.Get_group()):
                self.add(worker, f"worker {worker} on {self._hosts[worker]} has ended")

    def unsent(self, requests: Iterable[MPI.Request], messages: MPI.Intracomm) -> list[MPI.Request]:
        """Return the messages that are still on their way."""
        left = []
        for request in requests:
            with self.noted(messages):
                if not request.Test():
                    left.append(request)
        return left


class _Watch:
    """A thread that sends and expects signs of life."""

    def __init__(
        self,
        beats: MPI.Intracomm,
        worker: int,
        hosts: Sequence[str],
        limit_s: float,
        fail: Callable[[str], NoReturn],
        losses: _Losses,
    ) -> None:
        self._beats, self._hosts, self._limit_s = beats, hosts, limit_s
        self._fail, self._losses = fail, losses
        self._others = range(1, len(hosts)) if worker == 0 else range(1)
        self._since: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, together: bool) -> None:
        """End the thread; together, of all workers, with the signs of life that are still on their way."""
        self._ended.set()
        self._thread.join()
        if together:
            self._beats.Barrier()
            for other in self._others:
                self._is_heard(other)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Note how long the block takes, which waits for the other workers."""
        before, self._since = self._since, time.monotonic()
        yield
        self._since = before

    def _run(self) -> None:
        heard = dict.fromkeys(self._others, time.monotonic())
        sent: list[MPI.Request] = []
        while not self._ended.wait(_BEAT_S):
            sent = self._losses.unsent(sent, self._beats)
            for other in heard:
                with self._losses.noted(self._beats):
                    sent.append(self._beats.Isend(b"", other))
                    if self._is_heard(other):
                        heard[other] = time.monotonic()
            now = time.monotonic()
            for other, last in heard.items():
                if now - last > self._limit_s:
                    self._losses.add(
                        other,
                        f"no sign of life from worker {other} on {self._hosts[other]} for "
                        f"{self._limit_s:g} s; it hangs, or its link is cut",
                    )
            heard = {other: last for other, last in heard.items() if other not in self._losses}
            if self._since is not None and now - self._since > _PATIENCE * self._limit_s:
                self._fail(f"waited {_PATIENCE * self._limit_s:g} s for a result of the other workers")

    def _is_heard(self, other: int) -> bool:
        """Take a worker's signs of life; return whether there was any."""
        heard = False
        while self._beats.Iprobe(other):
            self._beats.Recv(bytearray(), other)
            heard = True
        return heard
