"""What a backend is: the contract between this toolkit and a framework.

Promises: the toolkit uses nothing of a backend but what stands here. A backend is described by a
`Backend`, whose making imports no framework; its implementation is a module with these functions:

    list_devices() -> list[str]                                  "cpu", "gpu:0", …
    compile(plan, rules, device, precision) -> Model

    predict_exported(directory, images) -> probabilities         of a backend that exports
    switches() -> tuple[Switch, ...]                             of one that has any: see
    `core.backend.kernel_switches`

and a `Model` has the seven methods of the protocol. Arrays at the boundary are NumPy's: images
(N, H, W, 1) of the plan's size in [0, 1], float32 or float64; masks (N, H, W, 1) in {0, 1}, uint8;
state as named arrays of the precision's `array_type` in the neutral layouts of `core.network.plan`. The last
batch of an epoch may be shorter than the others. A backend that cannot honour a rule raises `UserError`
with the reason; it never approximates.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsFloat, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from core.backend.training_rules import StepScalars, TrainingRules
from core.network.plan import Plan

Array: TypeAlias = NDArray[Any]
State: TypeAlias = dict[str, NDArray[Any]]
DropoutMasks: TypeAlias = Mapping[str, NDArray[np.uint8]]
Precision: TypeAlias = Literal["float32", "float64", "mixed_bfloat16"]
"""Precision of a model. "mixed_bfloat16" keeps all but the products in float32: see `training_rules`."""


def array_type(precision: Precision) -> Literal["float32", "float64"]:
    """The type of the arrays of such a model: its state, and all between its products."""
    return "float64" if precision == "float64" else "float32"


class Model(Protocol):
    """A compiled plan with its weights, running statistics and optimiser's moments on one device."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> SupportsFloat:
        """One update of weights, statistics and moments; gives the loss before it.

        May return before the work is done; `float()` of the result waits for it.

        Args:
            images: (N, H, W, 1).
            masks: (N, H, W, 1) in {0, 1}.
            scalars: This step's numbers.
            keep: For each `Dropout` its mask, (N, h, w, c) in {0, 1}, by the operation's name. None
                lets the backend draw them, keyed by the rules' seed and the step, so
                that a resumed run draws the same.
        """
        ...

    def evaluate(self, images: Array, masks: Array) -> tuple[SupportsFloat, Array]:
        """The loss with running statistics and without dropout, and the probabilities."""
        ...

    def predict(self, images: Array) -> Array:
        """Probabilities (N, H, W, 1), float64 where that is the model's precision."""
        ...

    def gradients(self, images: Array, masks: Array, keep: DropoutMasks | None = None) -> tuple[float, State]:
        """The training loss and its gradient for each parameter, before clipping; changes nothing."""
        ...

    def state(self) -> State:
        """Copies of all arrays: see `core.backend.state` for their names and shapes."""
        ...

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put arrays back; names and shapes must be exactly those of `core.backend.state`."""
        ...

    def export(self, directory: Path, metadata: Mapping[str, str]) -> None:
        """Write the prediction (images to probabilities) in the framework's own format.

        Args:
            directory: A folder for the files; made if it is not there.
            metadata: What the files' user should know of the model, for formats that can carry it.

        Raises:
            OSError: The folder cannot be written.
        """
        ...


class SeveralFormats(Model, Protocol):
    """A model of a backend whose `Backend.exports` names several formats."""

    def export(self, directory: Path, metadata: Mapping[str, str], form: str | None = None) -> None:
        """Write the prediction as `Model.export` does.

        Args:
            directory: See there.
            metadata: See there.
            form: One of `Backend.exports`; None for the first, and others that are read by programs of today.

        Raises:
            UserError: The installed framework does not write this format.
            OSError: The folder cannot be written.
        """
        ...


class Implementation(Protocol):
    """The module that a backend's descriptor names."""

    def list_devices(self) -> list[str]:
        """The devices the framework sees, "cpu" first."""
        ...

    def compile(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> Model:
        """Build the plan for one of `list_devices`; weights hold no meaning until `load_state`."""
        ...

    def predict_exported(self, directory: Path, images: Array) -> Array:
        """Probabilities on the CPU by what `Model.export` wrote, through the framework's own loader.

        Belongs to a backend with `exports`; it is what `run.py export` checks a file with.

        Args:
            directory: The folder given to `Model.export`.
            images: (N, H, W, 1) float32; N may be any.
        """
        ...


class JudgeModel(Model, Protocol):
    """A model of the judge."""

    def step_and_gradients(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> tuple[float, State]:
        """`train_step`, and the loss and gradients that `gradients` would have given before it."""
        ...


def step_and_gradients(
    model: Model, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks
) -> tuple[float, State]:
    """Train a step: the loss before it, and its gradients. The judge, which is slow, finds both at once."""
    if hasattr(model, "step_and_gradients"):
        return cast(JudgeModel, model).step_and_gradients(images, masks, scalars, keep)
    _, gradients = model.gradients(images, masks, keep)
    return float(model.train_step(images, masks, scalars, keep)), gradients


class Judge(Protocol):
    """What the reference has beside an `Implementation`: the truth that others are compared with."""

    def judge(
        self, plan: Plan, rules: TrainingRules, precision: Precision, draw: int | None = None
    ) -> JudgeModel:
        """A model that computes in float64 what one of this precision should; see `core.tolerance.budget`.

        Args:
            plan: What to compile.
            rules: Of training.
            precision: Of the models to be judged.
            draw: Which draw of moves its numbers are moved by; None for the truth.
        """
        ...


@dataclass(frozen=True)
class Backend:
    """The descriptor of a backend.

    Args:
        name: What stands after `-f` and before `_model`.
        title: The framework's name for people.
        module: The framework's top-level module; None where NumPy is enough.
        distributions: Names under which the framework may be installed.
        install: The command that installs it.
        implementation: The module with `list_devices` and `compile`; importing it imports the framework.
        exports: The names of the formats that `Model.export` writes, as `run.py export --to` takes them.
            Where there are several, the models are `SeveralFormats`.
        trains: Whether it can train; one that cannot refuses `train_step` and `gradients` with the reason.
        precisions: Of the models that it predicts with.
    """

    name: str
    title: str
    module: str | None
    distributions: tuple[str, ...]
    install: str
    implementation: str
    exports: tuple[str, ...] = ()
    trains: bool = True
    precisions: tuple[Precision, ...] = ("float32", "float64", "mixed_bfloat16")

    def is_available(self) -> bool:
        """Whether the framework can be found; does not import it."""
        with contextlib.suppress(ImportError, ValueError):  # of a package that would hold the module
            return self.module is None or importlib.util.find_spec(self.module) is not None
        return False

    def version(self) -> str | None:
        """The installed framework's version; None where it is not installed. Does not import it."""
        for distribution in self.distributions:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(distribution)
        return None

    def load(self) -> Implementation:
        """Import the implementation, and the framework with it."""
        return cast(Implementation, importlib.import_module(self.implementation))
