"""Runs the backends in step with each other and keeps what was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.backend.contract import Precision, State, array_type
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.process import BackendProcess
from core.backend.state import Kind, initial_state
from core.backend.training_rules import step_scalars
from core.base.errors import UserError
from core.experiment.checkpoint import Checkpoint, DataFacts, Progress, load_checkpoint, save_checkpoint
from core.experiment.configuration import Configuration
from core.network.plan import Plan
from core.parity.measures import KINDS, Distances, Ruler, Snapshot, Violation
from core.parity.trajectory import Step, advance, begin, begin_judging
from core.tolerance.budget import DRAWS, Distance, farthest
from core.training.schedules import learning_rate
from core.training.validation import BatchSource, LabelledBatch

TRUTH = "truth"
"""The name of the reference's run in float64 that float32 is compared with."""

_JUDGES = 2
"""Processes that share the judge's runs."""


@dataclass
class Series:
    """One run from step to step: its loss, and for each kind the array that takes most of its budget.

    Args:
        losses: Before each step.
        tensors: For each kind the array's name at each step.
        distances: How far it was.
        budgets: How far it might be.
    """

    losses: list[float] = field(default_factory=list)
    tensors: dict[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    distances: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    budgets: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, loss: float, found: Distances) -> None:
        """One more step."""
        self.losses.append(loss)
        for kind in KINDS:
            name, distance = farthest(found[kind])
            self.tensors[kind].append(name)
            self.distances[kind].append(distance.value)
            self.budgets[kind].append(distance.budget)

    def shares(self, kind: Kind) -> list[float]:
        """Of the budget, at each step."""
        pairs = zip(self.distances[kind], self.budgets[kind], strict=True)
        return [Distance(value, budget).share for value, budget in pairs]


@dataclass
class Certificate:
    """What was measured.

    Args:
        precision: Of all runs but the truth's.
        base: What they are compared with: a backend, or "truth", the reference in float64.
        runs: Distances of each backend (and relay, "tf > mxnet") from it.
        base_losses: Its loss at each step.
        violations: The first of each run that left the budget.
        relay_step: After which step relays changed hands; None without relays.
        round_steps: After how many steps each the run that goes round changed hands; None without one.
    """

    precision: Precision
    base: str
    runs: dict[str, Series]
    base_losses: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    relay_step: int | None = None
    round_steps: int | None = None

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return len(self.base_losses)

    @property
    def holds(self) -> bool:
        """Whether every run stayed within the budget at every step."""
        return not self.violations


@dataclass
class _Run:
    """A model in some process; `name` is its name there too."""

    name: str
    process: BackendProcess
    before: State


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
    after_step: Callable[[int], None] = lambda _: None,
) -> Certificate:
    """Train on every backend in step and compare.

    Args:
        names: Backends, two or more. In float64 "reference" is the base if it is among them, else the
            first; in any other precision all are compared with the truth.
        plan: The network, lowered for the images.
        configuration: The run's settings; its precision decides about the budget.
        batches: The images, in the order that training takes them.
        data: What the checkpoints of relays say of them.
        steps: Updates to make.
        relay: Also hand each backend's run to every other one half-way, through a checkpoint file.
        round_trip: Also train one run on all backends in turn, in the order of their names and back to the
            first, in as many legs of equal length, through checkpoint files.
        after_step: Told of each step that is done.

    Raises:
        UserError: Fewer than two backends, one that cannot be used, or fewer steps than legs.
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
        processes = {name: stack.enter_context(BackendProcess(name)) for name in names}
        work = _Work(processes, plan, configuration, batches.batches, data, stack)
        if round_trip:
            work.begin_round(-(-steps // (len(names) + 1)))
        for step, batch in enumerate(_endless(batches), start=1):
            work.advance(step, batch)
            if relay and step == steps // 2:
                work.hand_over(step)
            work.go_round(step)
            after_step(step)
            if step == steps:
                break
        return work.certificate


def _endless(batches: BatchSource) -> Iterator[LabelledBatch]:
    epoch = 0
    while True:
        epoch += 1
        yield from batches.epoch(epoch)


class _Work:
    def __init__(
        self,
        processes: Mapping[str, BackendProcess],
        plan: Plan,
        configuration: Configuration,
        batches: int,
        data: DataFacts,
        stack: ExitStack,
    ) -> None:
        self._processes, self._plan, self._configuration, self._data = processes, plan, configuration, data
        self._batches, self._settings = batches, configuration.training
        self._rules = self._settings.rules()
        precision = self._settings.precision
        self._ruler = Ruler(plan, precision)
        # Float64 keeps the float32 numbers that are drawn.
        self._state: State = {
            name: array.astype(array_type(precision))
            for name, array in initial_state(plan, self._rules, self._settings.seed).items()
        }
        base, others = TRUTH, list(processes)
        self._moved: list[_Run] = []
        if precision == "float64":
            base = "reference" if "reference" in processes else others[0]
            others.remove(base)
            self._truth = self._begin(base, base, self._state)
        else:
            judges = [stack.enter_context(BackendProcess("reference")) for _ in range(_JUDGES)]
            self._truth = self._begin_judging(judges[0], TRUTH, None)
            self._moved = [
                self._begin_judging(judges[draw % _JUDGES], f"moved {draw}", draw) for draw in range(DRAWS)
            ]
        self._runs = [self._begin(name, name, self._state) for name in others]
        self.certificate = Certificate(precision, base, runs={name: Series() for name in others})
        self._round: _Run | None = None
        self._ahead: list[str] = []  # the backends that the run that goes round has not come to

    def _begin(self, run: str, backend: str, state: State) -> _Run:
        process = self._processes[backend]
        process.call(begin, run, self._plan, self._rules, self._settings.precision, state)
        return _Run(run, process, state)

    def _begin_judging(self, process: BackendProcess, run: str, draw: int | None) -> _Run:
        precision = self._settings.precision
        process.call(begin_judging, run, self._plan, self._rules, precision, self._state, draw)
        return _Run(run, process, self._state)

    def advance(self, step: int, batch: LabelledBatch) -> None:
        """One step of every run, and what it showed."""
        settings, certificate = self._settings, self.certificate
        rate = learning_rate(settings, step, self._batches)  # nothing is scored, so there is no plateau
        scalars = step_scalars(self._rules.optimizer, step, rate, settings.optimizer.weight_decay)
        keep = draw_dropout_masks(self._plan, settings.seed, step, len(batch.images))
        images = np.asarray(batch.images, array_type(settings.precision))
        runs = [self._truth, *self._moved, *self._runs]
        started = [run.process.start(advance, run.name, images, batch.masks, scalars, keep) for run in runs]
        snapshots: dict[str, Snapshot] = {}
        for run, future in zip(runs, started, strict=True):
            result: Step = run.process.wait(future)
            snapshots[run.name] = Snapshot(result, run.before)
            run.before = result.state
        truth, moved = snapshots[self._truth.name], [snapshots[run.name] for run in self._moved]
        certificate.base_losses.append(truth.step.loss)
        self._ruler.advance(truth, moved)
        already = {violation.run for violation in certificate.violations}
        for run in self._runs:
            found = self._ruler.measure(snapshots[run.name])
            certificate.runs[run.name].add(snapshots[run.name].step.loss, found)
            if run.name not in already and (violation := self._ruler.first_violation(run.name, step, found)):
                certificate.violations.append(violation)

    def hand_over(self, step: int) -> None:
        """Begin the relays: every backend goes on from every other one's checkpoint."""
        self.certificate.relay_step = step
        plain = {run.name: run for run in [self._truth, *self._runs]}
        for giver in self._processes:
            received = self._through_a_checkpoint(plain[giver].before, step)
            for taker in self._processes:
                if taker != giver:
                    name = f"{giver} > {taker}"
                    self._runs.append(self._begin(name, taker, received))
                    self.certificate.runs[name] = Series()

    def begin_round(self, leg: int) -> None:
        """Begin the run that every backend trains in turn, each for so many steps and the first twice."""
        first, *others = self._processes
        self._ahead, self.certificate.round_steps = [*others, first], leg
        name = " > ".join([first, *self._ahead])
        self._round = self._begin(name, first, self._state)
        self._runs.append(self._round)
        self.certificate.runs[name] = Series()

    def go_round(self, step: int) -> None:
        """Hand the run that goes round to the next backend, if its time has come."""
        run, leg = self._round, self.certificate.round_steps
        if run is None or leg is None or step % leg or not self._ahead:
            return
        received = self._through_a_checkpoint(run.before, step)
        following = self._begin(run.name, self._ahead.pop(0), received)
        run.process, run.before = following.process, following.before

    def _through_a_checkpoint(self, state: State, step: int) -> State:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "handed-over.safetensors"
            save_checkpoint(path, Checkpoint(self._configuration, self._data, Progress(step=step), state))
            return load_checkpoint(path).arrays
