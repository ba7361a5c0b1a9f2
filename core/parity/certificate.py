"""Runs the backends in step with each other and keeps what was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.checkpoint import Checkpoint, DataFacts, Progress, load_checkpoint, save_checkpoint
from core.configuration import Configuration
from core.contract import Precision, State, array_type
from core.dropout import draw_keep_masks
from core.errors import UserError
from core.isolation import Isolated
from core.parity.measures import FACTOR, FIXED_BUDGET, FLOOR, KINDS, Ruler, Snapshot, Violation, largest
from core.parity.trajectory import Step, advance, begin, nudged
from core.plan import Plan
from core.rules import step_scalars
from core.schedules import learning_rate
from core.state import initial_state
from core.training import Batch, Batches


@dataclass
class Series:
    """One run from step to step: its loss, and for each kind the largest distance and whose it is."""

    losses: list[float] = field(default_factory=list)
    distances: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    tensors: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


@dataclass
class Certificate:
    """What was measured.

    Args:
        precision: Of all runs.
        base: The backend that the others are compared with.
        runs: Distances of each other backend (and relay, "tf > mxnet") from the base.
        base_losses: The base's loss at each step.
        drifts: Distances of each nudged run ("tf nudged 1") from that backend's own run; none in float64.
        budgets: For each kind what was allowed at each step.
        violations: The first of each run that left the budget.
        relay_step: After which step relays changed hands; None without relays.
        round_steps: After how many steps each the run that goes round changed hands; None without one.
    """

    precision: Precision
    base: str
    runs: dict[str, Series]
    base_losses: list[float] = field(default_factory=list)
    drifts: dict[str, Series] = field(default_factory=dict)
    budgets: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
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
    process: Isolated
    compared_with: str | None
    before: State


def certify(
    names: Sequence[str],
    plan: Plan,
    configuration: Configuration,
    batches: Batches,
    data: DataFacts,
    steps: int,
    *,
    drift_runs: int = 3,
    relay: bool = False,
    round_trip: bool = False,
    after_step: Callable[[int], None] = lambda _: None,
) -> Certificate:
    """Train on every backend in step and compare.

    Args:
        names: Backends, two or more; "reference" is the base if it is among them, else the first.
        plan: The network, lowered for the images.
        configuration: The run's settings; its precision decides about the budget.
        batches: The images, in the order that training takes them.
        data: What the checkpoints of relays say of them.
        steps: Updates to make.
        drift_runs: Nudged runs of each backend, but in float64.
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
        processes = {name: stack.enter_context(Isolated(name)) for name in names}
        work = _Work(processes, plan, configuration, batches.batches, data, drift_runs)
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


def _endless(batches: Batches) -> Iterator[Batch]:
    epoch = 0
    while True:
        epoch += 1
        yield from batches.epoch(epoch)


class _Work:
    def __init__(
        self,
        processes: Mapping[str, Isolated],
        plan: Plan,
        configuration: Configuration,
        batches: int,
        data: DataFacts,
        drift_runs: int,
    ) -> None:
        self._processes, self._plan, self._configuration, self._data = processes, plan, configuration, data
        self._batches = batches
        self._settings = configuration.training
        self._rules = self._settings.rules()
        self._ruler = Ruler(plan, self._rules.optimizer.slots)
        base = "reference" if "reference" in processes else next(iter(processes))
        others = [name for name in processes if name != base]
        # Float64 keeps the float32 numbers that are drawn.
        state: State = {
            name: array.astype(array_type(self._settings.precision))
            for name, array in initial_state(plan, self._rules, self._settings.seed).items()
        }
        self._state = state
        self._runs = [self._begin(base, base, None, state)]
        self._runs += [self._begin(name, name, base, state) for name in others]
        self.certificate = Certificate(
            self._settings.precision, base, runs={name: Series() for name in others}
        )
        if self._settings.precision != "float64":
            for name in processes:
                for number in range(1, drift_runs + 1):
                    moved = self._nudge(state, number)
                    self._runs.append(self._begin(f"{name} nudged {number}", name, name, moved))
                    self.certificate.drifts[f"{name} nudged {number}"] = Series()
        self._round: _Run | None = None
        self._ahead: list[str] = []  # the backends that the run that goes round has not come to

    def _nudge(self, state: State, number: int) -> State:
        weights = {parameter.name: state[parameter.name] for parameter in self._plan.parameters}
        return state | nudged(weights, self._settings.seed, number)

    def _begin(self, run: str, backend: str, compared_with: str | None, state: State) -> _Run:
        process = self._processes[backend]
        process.call(begin, run, self._plan, self._rules, self._settings.precision, state)
        return _Run(run, process, compared_with, state)

    def advance(self, step: int, batch: Batch) -> None:
        """One step of every run, and what it showed."""
        settings = self._settings
        rate = learning_rate(settings, step, self._batches)  # nothing is scored, so there is no plateau
        scalars = step_scalars(self._rules.optimizer, step, rate, settings.optimizer.weight_decay)
        keep = draw_keep_masks(self._plan, settings.seed, step, len(batch.images))
        images = np.asarray(batch.images, array_type(settings.precision))
        started = [
            run.process.start(advance, run.name, images, batch.masks, scalars, keep) for run in self._runs
        ]
        snapshots: dict[str, Snapshot] = {}
        for run, future in zip(self._runs, started, strict=True):
            result: Step = run.process.wait(future)
            snapshots[run.name] = Snapshot(result, run.before)
            run.before = result.state
        self.certificate.base_losses.append(snapshots[self.certificate.base].step.loss)
        found = {
            run.name: self._ruler.measure(snapshots[run.name], snapshots[run.compared_with])
            for run in self._runs
            if run.compared_with is not None
        }
        for name, series in {**self.certificate.runs, **self.certificate.drifts}.items():
            if name in found:
                series.losses.append(snapshots[name].step.loss)
                for kind in KINDS:
                    tensor, distance = largest(found[name][kind])
                    series.tensors[kind].append(tensor)
                    series.distances[kind].append(distance)
        budget = self._budget()
        for kind in KINDS:
            self.certificate.budgets[kind].append(budget[kind])
        already = {violation.run for violation in self.certificate.violations}
        for name in sorted(self.certificate.runs.keys() & found.keys() - already):
            if violation := self._ruler.first_violation(name, step, found[name], budget):
                self.certificate.violations.append(violation)

    def hand_over(self, step: int) -> None:
        """Begin the relays: every backend goes on from every other one's checkpoint."""
        self.certificate.relay_step = step
        plain = {run.name: run for run in self._runs}
        for giver in self._processes:
            received = self._through_a_checkpoint(plain[giver].before, step)
            for taker in self._processes:
                if taker != giver:
                    name = f"{giver} > {taker}"
                    self._runs.append(self._begin(name, taker, self.certificate.base, received))
                    self.certificate.runs[name] = Series()

    def begin_round(self, leg: int) -> None:
        """Begin the run that every backend trains in turn, each for so many steps and the first twice."""
        first, *others = self._processes
        self._ahead, self.certificate.round_steps = [*others, first], leg
        name = " > ".join([first, *self._ahead])
        self._round = self._begin(name, first, self.certificate.base, self._state)
        self._runs.append(self._round)
        self.certificate.runs[name] = Series()

    def go_round(self, step: int) -> None:
        """Hand the run that goes round to the next backend, if its time has come."""
        run, leg = self._round, self.certificate.round_steps
        if run is None or leg is None or step % leg or not self._ahead:
            return
        received = self._through_a_checkpoint(run.before, step)
        following = self._begin(run.name, self._ahead.pop(0), run.compared_with, received)
        run.process, run.before = following.process, following.before

    def _through_a_checkpoint(self, state: State, step: int) -> State:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "handed-over.safetensors"
            save_checkpoint(path, Checkpoint(self._configuration, self._data, Progress(step=step), state))
            return load_checkpoint(path).arrays

    def _budget(self) -> dict[str, float]:
        if self._settings.precision == "float64":
            return dict(FIXED_BUDGET)
        drifts, floor = self.certificate.drifts.values(), FLOOR[self._settings.precision]
        return {
            kind: max([floor, *(FACTOR * series.distances[kind][-1] for series in drifts)]) for kind in KINDS
        }
