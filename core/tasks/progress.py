"""Who is shown what a task does: a terminal, say, or nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from core.experiment.configuration import Training
from core.network.plan import Plan
from core.training.observers import Observer


class Watcher:
    """Is shown what happens; every method shows nothing unless a subclass says otherwise."""

    def say(self, text: str) -> None:
        """A remark of one line; names in it may hold characters that steer a terminal."""

    def network(self, plan: Plan) -> None:
        """The network that will be trained."""

    @contextlib.contextmanager
    def epochs(self, settings: Training) -> Iterator[Observer]:
        """A training begins; what is given is told of every batch and epoch until the block ends."""
        del settings
        yield Observer()

    @contextlib.contextmanager
    def images(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Work on so many images begins; what is given is told how many more are done."""
        del title, total
        yield _ignore


def _ignore(number: int) -> None:
    del number
