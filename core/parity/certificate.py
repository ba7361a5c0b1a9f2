"""Train several backends in step with each other and record their distances."""

from __future__ import annotations

import itertools
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from core.backend.contract import Precision, State, array_type
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.process import BackendProcess
from core.backend.state import ArrayKind
from core.backend.training_rules import step_scalars
from core.base.byte_images import as_numbers
from core.base.errors import UserError
from core.experiment.checkpoint import DataFacts
from core.experiment.configuration import Configuration
from core.network.plan import Plan
from core.parity.measures import KINDS, Distances, RunComparer, Violation
from core.parity.trajectory import (
    StoredArrays,
    advance_run,
    begin_reference_run,
    begin_run,
    end_run,
    endless,
    save_run,
    store_arrays,
)
from core.tolerance.budget import LONG_RUN_DRAWS, Distance, largest_share
from core.training.schedules import learning_rate
from core.training.validation import BatchSource, LabelledBatch

TRUTH = "truth"
"""The name of the base in precisions other than float64: the run of the reference in float64."""

REFERENCE = "reference"
"""The backend that all others are compared with."""

_PROCESSES = 2
"""Number of processes that share the runs of the float64 reference."""


@dataclass
class RunHistory:
    """The measurements of one run at each step: its loss, and one array of each kind.

    That array is the one with the largest share of its budget.

    Args:
        losses: The loss before each step.
        tensors: For each kind, the array's name at each step.
        distances: For each kind, the array's distance at each step.
        budgets: For each kind, the array's budget at each step.
    """

    losses: list[float] = field(default_factory=list)
    tensors: dict[ArrayKind, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    distances: dict[ArrayKind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    budgets: dict[ArrayKind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, loss: float, found: Distances) -> None:
        """Append one step."""
        self.losses.append(loss)
        for kind in KINDS:
            name, distance = largest_share(found[kind])
            self.tensors[kind].append(name)
            self.distances[kind].append(distance.value)
            self.budgets[kind].append(distance.budget)

    def shares(self, kind: ArrayKind) -> list[float]:
        """Return the share of the budget at each step."""
        pairs = zip(self.distances[kind], self.budgets[kind], strict=True)
        return [Distance(value, budget).share for value, budget in pairs]


@dataclass
class Certificate:
    """The result of a comparison of backends.

    Args:
        precision: Precision of all runs except the float64 reference's.
        base: The run that the others are compared with: a backend, or "truth", the reference in float64.
        runs: The distances of each backend (and of each relay, "tf > mxnet") from the base.
        base_losses: The loss of the base before each step.
        violations: The first violation of each run that exceeded its budget.
        relay_step: The step after which relays went to another backend; None without relays.
        round_steps: The number of steps between the hand-overs of the round trip; None without one.
    """

    precision: Precision
    base: str
    runs: dict[str, RunHistory]
    base_losses: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    relay_step: int | None = None
    round_steps: int | None = None

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.base_losses)

    @property
    def holds(self) -> bool:
        """Whether every run stayed within its budget at every step."""
        return not self.violations


@dataclass
class _ActiveRun:
    """A run in one of the processes."""

    name: str
    process: BackendProcess


def certify(
    names: Sequence[str],
    plan: Plan,
    configuration: Configuration,
    batches: BatchSource,
    data: DataFacts,
    steps: int,
    *,
    relay: bool = False,
    round_trip: bool = False,
    device: str = "cpu",
    after_step: Callable[[int], None] = lambda _: None,
) -> Certificate:
    """Train on all backends in step and compare them after each step.

    Args:
        names: Two or more backends. In float64 the base is "reference" if it is among them, else the first
            one. In any other precision all are compared with the reference in float64.
        plan: The network, lowered for the images.
        configuration: The settings of the runs; the budget depends on its precision.
        batches: The images, in the order of training.
        data: Facts about the images, for the checkpoints of relays.
        steps: Number of updates.
        relay: Also continue each backend's run on every other one, half-way, through a checkpoint file.
        round_trip: Also train one run on all backends in turn, in the given order and back to the first, in
            legs of equal length, through checkpoint files.
        device: Where the backends compute, as for `core.backend.devices.choose_device`. The reference
            computes on the CPU whatever it is.
        after_step: Called with the number of each finished step.

    Raises:
        UserError: There are fewer than two backends, one cannot be used, or there are fewer steps than legs.
    """
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise UserError(f"parity compares two backends or more; received: {', '.join(names)}")
    if round_trip and steps <= len(names):
        raise UserError(
            f"--round visits {len(names)} backends and the first once more, at least a step each; "
            f"received: --steps {steps}"
        )
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(BackendProcess(name, device=None if name == REFERENCE else device))
            for name in names
        }
        leg = -(-steps // (len(names) + 1)) if round_trip else None
        work = _Certification(processes, plan, configuration, batches.batches, data, stack, leg)
        for step, batch in enumerate(endless(batches.epoch), start=1):
            work.advance(step, batch)
            if relay and step == steps // 2:
                work.hand_over(step)
            work.go_round(step)
            after_step(step)
            if step == steps:
                break
        return work.certificate


class _Certification:
    def __init__(
        self,
        processes: Mapping[str, BackendProcess],
        plan: Plan,
        configuration: Configuration,
        batches: int,
        data: DataFacts,
        stack: ExitStack,
        leg: int | None,
    ) -> None:
        self._processes, self._plan, self._configuration, self._data = processes, plan, configuration, data
        self._batches, self._settings = batches, configuration.training
        self._rules = self._settings.rules()
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        precision, seed = self._settings.precision, self._settings.seed
        self._comparer = RunComparer(plan, precision)
        base, others = TRUTH, list(processes)
        self._perturbed: list[_ActiveRun] = []
        if precision == "float64":
            base = REFERENCE if REFERENCE in processes else others[0]
            others.remove(base)
            self._base = self._begin(base, base, seed)
        else:
            references = [stack.enter_context(BackendProcess(REFERENCE)) for _ in range(_PROCESSES)]
            self._base = self._begin_reference(references[0], TRUTH, None)
            self._perturbed = [
                self._begin_reference(references[draw % _PROCESSES], f"perturbed {draw}", draw)
                for draw in range(LONG_RUN_DRAWS)
            ]
        self._runs = [self._begin(name, name, seed) for name in others]
        self.certificate = Certificate(precision, base, runs={name: RunHistory() for name in others})
        self._round: _ActiveRun | None = None
        self._ahead: list[str] = []  # the backends that the round trip has not reached
        if leg is not None:
            self._begin_round(leg)

    def _begin(self, run: str, backend: str, start: int | Path) -> _ActiveRun:
        process = self._processes[backend]
        process.call(begin_run, run, self._plan, self._rules, self._settings.precision, start)
        return _ActiveRun(run, process)

    def _begin_reference(self, process: BackendProcess, run: str, draw: int | None) -> _ActiveRun:
        precision, seed = self._settings.precision, self._settings.seed
        process.call(begin_reference_run, run, self._plan, self._rules, precision, seed, draw)
        return _ActiveRun(run, process)

    def advance(self, step: int, batch: LabelledBatch) -> None:
        """Train one step of every run and record the distances."""
        settings, certificate = self._settings, self.certificate
        rate = learning_rate(settings, step, self._batches)  # no validation, so no plateau
        scalars = step_scalars(self._rules, step, rate, settings.optimizer.weight_decay)
        keep = draw_dropout_masks(self._plan, settings.seed, step, len(batch.images))
        images = as_numbers(batch.images).astype(array_type(settings.precision))
        runs = [self._base, *self._perturbed, *self._runs]
        started = [
            run.process.start(advance_run, run.name, images, batch.masks, scalars, keep) for run in runs
        ]
        losses = {run.name: run.process.wait(future) for run, future in zip(runs, started, strict=True)}
        certificate.base_losses.append(losses[self._base.name])
        found = self._measure()
        already = {violation.run for violation in certificate.violations}
        for run in self._runs:
            certificate.runs[run.name].add(losses[run.name], found[run.name])
            if run.name not in already and (
                violation := self._comparer.first_violation(run.name, step, found[run.name])
            ):
                certificate.violations.append(violation)

    def _measure(self) -> dict[str, Distances]:
        """Return the distances of all runs from the base, taking the arrays of one kind at a time."""
        found: dict[str, dict[ArrayKind, Mapping[str, Distance]]] = {run.name: {} for run in self._runs}
        for kind in KINDS:
            arrays = self._arrays(kind, [self._base, *self._perturbed, *self._runs])
            self._comparer.advance(kind, next(arrays), itertools.islice(arrays, len(self._perturbed)))
            for run, of_run in zip(self._runs, arrays, strict=True):
                found[run.name][kind] = self._comparer.measure(kind, of_run)
        return dict(found)

    def _arrays(self, kind: ArrayKind, runs: Sequence[_ActiveRun]) -> Iterator[State]:
        """Yield the arrays of one kind of each run; the next run writes its own meanwhile."""
        waiting: deque[tuple[_ActiveRun, Future[StoredArrays]]] = deque()
        for number, run in enumerate(runs):
            path = self._folder / f"{kind}-{number}.npy"
            waiting.append((run, run.process.start(store_arrays, run.name, kind, path)))
            if len(waiting) > 1:
                earlier, stored = waiting.popleft()
                yield earlier.process.wait(stored).take()
        last, stored = waiting.popleft()
        yield last.process.wait(stored).take()

    def hand_over(self, step: int) -> None:
        """Begin the relays: every backend continues from every other one's checkpoint."""
        self.certificate.relay_step = step
        plain = {run.name: run for run in [self._base, *self._runs]}
        for giver in self._processes:
            path = self._checkpoint(plain[giver], step)
            for taker in self._processes:
                if taker != giver:
                    name = f"{giver} > {taker}"
                    self._runs.append(self._begin(name, taker, path))
                    self.certificate.runs[name] = RunHistory()

    def _begin_round(self, leg: int) -> None:
        """Begin the round trip: each backend trains `leg` steps in turn, the first one twice."""
        first, *others = self._processes
        self._ahead, self.certificate.round_steps = [*others, first], leg
        name = " > ".join([first, *self._ahead])
        self._round = self._begin(name, first, self._settings.seed)
        self._runs.append(self._round)
        self.certificate.runs[name] = RunHistory()

    def go_round(self, step: int) -> None:
        """Move the round trip to the next backend if this step ends a leg."""
        run, leg = self._round, self.certificate.round_steps
        if run is None or leg is None or step % leg or not self._ahead:
            return
        path = self._checkpoint(run, step)
        run.process.call(end_run, run.name)
        run.process = self._begin(run.name, self._ahead.pop(0), path).process

    def _checkpoint(self, run: _ActiveRun, step: int) -> Path:
        """Write a run's checkpoint, in place of the one before; return its path."""
        path = self._folder / "handed-over.safetensors"
        run.process.call(save_run, run.name, path, self._configuration, self._data, step)
        return path
