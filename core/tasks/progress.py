"""The interface by which a task reports its progress, for example to a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from core.experiment.configuration import Training
from core.network.plan import Plan
from core.training.observers import Observer


class Watcher:
    """Base class of receivers of a task's progress; every method shows nothing unless overridden."""

    def say(self, text: str) -> None:
        """Show a remark of one line; names in it may contain terminal control characters."""

    def network(self, plan: Plan) -> None:
        """Show the network that will be trained."""

    @contextlib.contextmanager
    def epochs(self, settings: Training) -> Iterator[Observer]:
        """Yield the observer of a training run; the run lasts until the block ends."""
        del settings
        yield Observer()

    @contextlib.contextmanager
    def images(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yield a function that is called with the number of further images done, of `total`."""
        del title, total
        yield _ignore


def _ignore(number: int) -> None:
    del number
