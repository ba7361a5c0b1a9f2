"""Train several backends in step with each other and record their distances."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.backend.contract import Precision, State, array_type
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.process import BackendProcess
from core.backend.state import ArrayKind, initial_state
from core.backend.trained_part import trained_part
from core.backend.training_rules import step_scalars
from core.base.errors import UserError
from core.experiment.checkpoint import Checkpoint, DataFacts, Progress, load_checkpoint, save_checkpoint
from core.experiment.configuration import Configuration
from core.network.plan import Plan
from core.parity.measures import KINDS, Distances, RunComparer, Snapshot, Violation
from core.parity.trajectory import (
    StepResult,
    advance_run,
    begin_reference_run,
    begin_run,
    endless,
    state_of_run,
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
    """A run in one of the processes; `before` are its parameters before the next step."""

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
        work = _Certification(processes, plan, configuration, batches.batches, data, stack)
        if round_trip:
            work.begin_round(-(-steps // (len(names) + 1)))
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
    ) -> None:
        self._processes, self._plan, self._configuration, self._data = processes, plan, configuration, data
        self._batches, self._settings = batches, configuration.training
        self._rules = self._settings.rules()
        precision = self._settings.precision
        self._comparer = RunComparer(plan, trained_part(plan, self._rules), precision)
        # In float64 the initial weights are the same float32 numbers.
        self._state: State = {
            name: array.astype(array_type(precision))
            for name, array in initial_state(plan, self._rules, self._settings.seed).items()
        }
        base, others = TRUTH, list(processes)
        self._perturbed: list[_ActiveRun] = []
        if precision == "float64":
            base = REFERENCE if REFERENCE in processes else others[0]
            others.remove(base)
            self._base = self._begin(base, base, self._state)
        else:
            references = [stack.enter_context(BackendProcess(REFERENCE)) for _ in range(_PROCESSES)]
            self._base = self._begin_reference(references[0], TRUTH, None)
            self._perturbed = [
                self._begin_reference(references[draw % _PROCESSES], f"perturbed {draw}", draw)
                for draw in range(LONG_RUN_DRAWS)
            ]
        self._runs = [self._begin(name, name, self._state) for name in others]
        self.certificate = Certificate(precision, base, runs={name: RunHistory() for name in others})
        self._round: _ActiveRun | None = None
        self._ahead: list[str] = []  # the backends that the round trip has not reached

    def _begin(self, run: str, backend: str, state: State) -> _ActiveRun:
        process = self._processes[backend]
        process.call(begin_run, run, self._plan, self._rules, self._settings.precision, state)
        return _ActiveRun(run, process, self._parameters(state))

    def _begin_reference(self, process: BackendProcess, run: str, draw: int | None) -> _ActiveRun:
        precision = self._settings.precision
        process.call(begin_reference_run, run, self._plan, self._rules, precision, self._state, draw)
        return _ActiveRun(run, process, self._parameters(self._state))

    def _parameters(self, state: State) -> State:
        """Return the parameters of a state; to keep all arrays of every run would need too much memory."""
        return {parameter.name: state[parameter.name] for parameter in self._plan.parameters}

    def advance(self, step: int, batch: LabelledBatch) -> None:
        """Train one step of every run and record the distances."""
        settings, certificate = self._settings, self.certificate
        rate = learning_rate(settings, step, self._batches)  # no validation, so no plateau
        scalars = step_scalars(self._rules, step, rate, settings.optimizer.weight_decay)
        keep = draw_dropout_masks(self._plan, settings.seed, step, len(batch.images))
        images = np.asarray(batch.images, array_type(settings.precision))
        runs = [self._base, *self._perturbed, *self._runs]
        started = [
            run.process.start(advance_run, run.name, images, batch.masks, scalars, keep) for run in runs
        ]
        waiting = deque(zip(runs, started, strict=True))
        del started

        def snapshot() -> Snapshot:
            """Return the next run's results; nothing else keeps them, for they are large."""
            run, future = waiting.popleft()
            result: StepResult = run.process.wait(future)
            before, run.before = run.before, self._parameters(result.state)
            return Snapshot(result, before)

        base = snapshot()
        certificate.base_losses.append(base.step.loss)
        self._comparer.advance(base, (snapshot() for _ in self._perturbed))
        already = {violation.run for violation in certificate.violations}
        for run in self._runs:
            of_run = snapshot()
            found = self._comparer.measure(of_run)
            certificate.runs[run.name].add(of_run.step.loss, found)
            if run.name not in already and (
                violation := self._comparer.first_violation(run.name, step, found)
            ):
                certificate.violations.append(violation)

    def hand_over(self, step: int) -> None:
        """Begin the relays: every backend continues from every other one's checkpoint."""
        self.certificate.relay_step = step
        plain = {run.name: run for run in [self._base, *self._runs]}
        for giver in self._processes:
            received = self._through_a_checkpoint(plain[giver], step)
            for taker in self._processes:
                if taker != giver:
                    name = f"{giver} > {taker}"
                    self._runs.append(self._begin(name, taker, received))
                    self.certificate.runs[name] = RunHistory()

    def begin_round(self, leg: int) -> None:
        """Begin the round trip: each backend trains `leg` steps in turn, the first one twice."""
        first, *others = self._processes
        self._ahead, self.certificate.round_steps = [*others, first], leg
        name = " > ".join([first, *self._ahead])
        self._round = self._begin(name, first, self._state)
        self._runs.append(self._round)
        self.certificate.runs[name] = RunHistory()

    def go_round(self, step: int) -> None:
        """Move the round trip to the next backend if this step ends a leg."""
        run, leg = self._round, self.certificate.round_steps
        if run is None or leg is None or step % leg or not self._ahead:
            return
        received = self._through_a_checkpoint(run, step)
        following = self._begin(run.name, self._ahead.pop(0), received)
        run.process, run.before = following.process, following.before

    def _through_a_checkpoint(self, run: _ActiveRun, step: int) -> State:
        state = run.process.call(state_of_run, run.name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "handed-over.safetensors"
            save_checkpoint(path, Checkpoint(self._configuration, self._data, Progress(step=step), state))
            return load_checkpoint(path).arrays
