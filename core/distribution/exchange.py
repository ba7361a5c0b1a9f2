"""What workers need of each other; `core.distribution.mpi` does it between processes and machines.

Workers are numbered from 0. Worker 0 leads: it alone decides, writes and prints, and all others do what it
says (`core.training.team`). `ALONE` is the exchange of a single worker.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # NumPy is imported after the cores are chosen: see `core.distribution.launch`
    from numpy.typing import NDArray

from core.backend.contract import Workers


class Exchange(Workers, Protocol):
    """The connection of one worker with all workers. All of them call the same methods in the same order."""

    @property
    def place(self) -> int:
        """The number of this worker among those of its machine, from 0."""
        ...

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which all workers rely on each other: an error in it ends all of them."""
        ...

    def collect(self, answer: Any) -> list[Any]:
        """Return the answers of all workers on worker 0, and an empty list on the others."""
        ...

    def scatter(self, array: NDArray[Any], send: Sequence[int], receive: Sequence[int]) -> list[NDArray[Any]]:
        """Send a part of an array to each worker; return what each worker sent.

        Args:
            array: (n,); the parts follow each other.
            send: The length of each worker's part.
            receive: The length of what each worker sends.
        """
        ...

    def join(self, part: NDArray[Any], lengths: Sequence[int]) -> NDArray[Any]:
        """Return the parts of all workers, one after the other.

        Args:
            part: (n,), this worker's part.
            lengths: The length of each worker's part.
        """
        ...


@dataclass(frozen=True)
class Lost:
    """What comes last from a worker that is gone, if the connection survives that."""


class Messages(Protocol):
    """The connection of one worker with each of the others, which need not be at the same place."""

    @property
    def place(self) -> int:
        """The number of this worker among those of its machine, from 0."""
        ...

    @property
    def hosts(self) -> Sequence[str]:
        """The machine of each worker."""
        ...

    def send(self, message: Any, worker: int) -> None:
        """Begin to send an object. It travels on while this worker sends or receives others."""
        ...

    def receive(self) -> tuple[int, Any] | None:
        """Return the next object and the number of its sender, or None if there is none yet.

        The objects of one sender come in the order in which it sent them. `Lost` is the last one of a worker
        that is gone; what is sent to it is dropped.
        """
        ...


@dataclass(frozen=True)
class _Alone:
    worker: int = 0
    place: int = 0
    hosts: Sequence[str] = (socket.gethostname(),)
    patience_s: float = math.inf

    def together(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def command(self, command: Any = None) -> Any:
        return command

    def at_end(self, action: Callable[[], None]) -> None:
        atexit.register(action)

    def collect(self, answer: Any) -> list[Any]:
        return [answer]

    def scatter(self, array: NDArray[Any], send: Sequence[int], receive: Sequence[int]) -> list[NDArray[Any]]:
        del send, receive
        return [array]

    def join(self, part: NDArray[Any], lengths: Sequence[int]) -> NDArray[Any]:
        del lengths
        return part


ALONE: Exchange = _Alone()
"""The exchange of one worker with itself."""
