"""The complete interface between the toolkit and a backend.

The toolkit uses nothing else of a backend. A `Backend` describes it; creating one imports no framework.
Its implementation is a module with these functions:

    list_devices() -> list[str]                                  "cpu", "gpu:0", …
    compile(plan, rules, device, precision) -> Model
    predict_exported(directory, images) -> probabilities         if the backend exports; with the existence
                                                                 head also those of existence
    switches() -> tuple[Switch, ...]                             if it has any; see `kernel_switches`

A `Model` has the eight methods of the protocol; one of a plan with the existence head has those of
`ExistenceModel`. A backend without the head refuses its operation `core.network.plan.Existence`. A model may
be a `DistributedModel`, whose `Engine` keeps the sums of a batch in shards on the devices. Arrays at the
boundary are NumPy arrays:

    images    (N, H, W, 1) of the plan's size in [0, 1], float32 or float64; or uint8, whose numbers are those
              of `core.base.byte_images`: training sends them to a GPU where the data file has bytes
    masks     (N, H, W, 1) in {0, 1}, uint8
    existence (N,) probabilities that an image's mask is not empty
    state     named arrays of the precision's `array_type`, in the layouts of `core.backend.state`
    gradients, statistics    the same, by the names of the parameters and of the running statistics

The last batch of an epoch may be shorter than the others. A backend that cannot follow a rule exactly raises
`UserError` with the reason; it never approximates.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, SupportsFloat, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from core.backend.training_rules import StepScalars, TrainingRules
from core.base import precisions
from core.base.errors import UserError
from core.base.rounding import Half, Narrow
from core.network.plan import Plan

Array: TypeAlias = NDArray[Any]
State: TypeAlias = dict[str, NDArray[Any]]
DropoutMasks: TypeAlias = Mapping[str, NDArray[np.uint8]]
Precision: TypeAlias = precisions.Precision
"""Precision of a model. The last three keep all but the products in float32 (see `training_rules`)."""
Flat: TypeAlias = Any
"""The derivatives of some shards in one array of one axis, in an order that an `Engine` chooses."""


def array_type(precision: Precision) -> Literal["float32", "float64"]:
    """Return the type of a model's arrays: of its state and of everything between its products."""
    return "float64" if precision == "float64" else "float32"


def product_type(precision: Precision) -> Narrow | None:
    """Return the type that the operands of products are rounded to; None for no rounding.

    Results are rounded too if it has 16 bits.
    """
    rounded: dict[Precision, Narrow] = {
        "tf32": "tf32",
        "mixed_bfloat16": "bfloat16",
        "mixed_float16": "float16",
    }
    return rounded.get(precision)


def exported_product_type(precision: Precision) -> Half | None:
    """Return the type that products are rounded to in an exported file; None for no rounding.

    TF32 is a matter of the device that a file is used on, so a file of a model in TF32 computes in float32.
    """
    narrow = product_type(precision)
    return None if narrow == "tf32" else narrow


class Derivatives(NamedTuple):
    """What a batch, or one shard of it, contributes to an update.

    Attributes:
        loss: The training loss.
        gradients: The gradient of each trained parameter (`core.backend.trained_part`), before clipping.
        statistics: The batch's mean and biased variance of each trained batch norm, by the names of the
            running ones.
    """

    loss: float
    gradients: State
    statistics: State


class Model(Protocol):
    """A compiled plan on one device, with its weights, running statistics and optimiser's moments."""

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> SupportsFloat:
        """Update weights, statistics and moments once; return the loss before the update.

        The method may return before the work is done; `float()` of the result waits for it.

        Args:
            images: (N, H, W, 1), numbers or bytes.
            masks: (N, H, W, 1) in {0, 1}.
            scalars: The numbers of this step.
            keep: Dropout masks (N, h, w, c) by the name of their `Dropout`; 1 keeps an element, 0 drops it.
                With None the backend draws them, keyed by the rules' seed and the step, so that a resumed
                run draws the same masks.
        """
        ...

    def evaluate(self, images: Array, masks: Array) -> tuple[SupportsFloat, Array]:
        """Return the loss with running statistics and without dropout, and the probabilities."""
        ...

    def predict(self, images: Array) -> Array:
        """Return probabilities (N, H, W, 1); they are float64 if the model's precision is float64."""
        ...

    def differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None = None, draw: int = 0
    ) -> Derivatives:
        """Return what `train_step` computes before it updates the arrays; change nothing.

        The gradients are those of the loss: a loss scale of the rules is divided out again.

        Args:
            images: As for `train_step`.
            masks: As for `train_step`.
            keep: As for `train_step`.
            draw: The number that takes the place of the step in the key of masks that the backend draws.
        """
        ...

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        """Clip the gradients, then update weights, moments, running statistics and averages once.

        With a loss scale, gradients that are not finite change the loss scale's arrays alone.

        `differentiate` with `draw=scalars.step` and then `update` give the bits of `train_step`, or differ
        from them by rounding where the framework computes both in one graph.

        Args:
            gradients: The gradient of each trained parameter, before clipping.
            statistics: The statistics of `Derivatives`.
            scalars: The numbers of this step.
        """
        ...

    def state(self) -> State:
        """Return copies of all arrays (names and shapes: `core.backend.state`)."""
        ...

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Replace all arrays; names and shapes must be exactly those of `core.backend.state`."""
        ...

    def export(self, directory: Path, metadata: Mapping[str, str]) -> None:
        """Write the prediction (images to probabilities) in the framework's own format.

        Args:
            directory: A folder for the files; created if it does not exist.
            metadata: Facts about the model for the files' users, stored by formats that can hold them.

        Raises:
            OSError: The folder cannot be written.
        """
        ...


class ExistenceModel(Model, Protocol):
    """A model of a plan with the existence head. Its losses have the head's part.

    An export of it returns the existence probabilities, (N,), as its second output, called "existence" where
    the format has names.
    """

    def predict_with_existence(self, images: Array) -> tuple[Array, Array]:
        """Return what `predict` returns, and the existence probabilities (N,) of the same type."""
        ...


class Workers(Protocol):
    """What an engine needs of the workers that train together, which MPI has started."""

    @property
    def worker(self) -> int:
        """The number of this worker, from 0."""
        ...

    @property
    def hosts(self) -> Sequence[str]:
        """The machine of each worker."""
        ...

    @property
    def patience_s(self) -> float:
        """How long a worker waits for a result of the others before it ends the run."""
        ...

    def command(self, command: Any = None) -> Any:
        """Return what worker 0 gave; the others give nothing. They may have to wait for long."""
        ...

    def at_end(self, action: Callable[[], None]) -> None:
        """Call a function when the work has ended in order, at about the same time in all workers."""
        ...


class ExchangeError(UserError):
    """An exchange of an engine failed. The reason is often another worker's, which tells it itself."""


class Engine(Protocol):
    """Computes, adds and exchanges the derivatives of shards.

    `core.distribution.step` calls it, in the order of `core.distribution.shards`. All numbers of a flat have
    the precision's `array_type`. Their number is a multiple of the number of workers; zeros at the end fill
    it up. What is added is added one by one, so that any two engines give the same bits.
    """

    def derivatives(
        self, images: Array, masks: Array, keep: DropoutMasks | None, draw: int, weight: float
    ) -> Flat:
        """Return what `Model.differentiate` returns, times the weight, rounded once to the flat's type."""
        ...

    def add(self, left: Flat, right: Flat) -> Flat:
        """Return the sum of two flats or parts; it may take the place of `left`."""
        ...

    def scatter(self, flat: Flat | None, senders: Sequence[int]) -> list[Flat]:
        """Send to each worker its part of a flat, and return this worker's part of each sender's flat.

        Args:
            flat: It is divided into equal parts, one for each worker. None if this worker sends nothing.
            senders: The workers that send, in order.

        Raises:
            ExchangeError: The exchange failed.
        """
        ...

    def gather(self, part: Flat) -> Flat:
        """Return the parts of all workers, one after the other.

        Raises:
            ExchangeError: The exchange failed.
        """
        ...

    def update(self, flat: Flat, scalars: StepScalars) -> SupportsFloat:
        """Do what `Model.update` does; return the loss in the flat, as `Model.train_step` does."""
        ...


class DistributedModel(Model, Protocol):
    """A model with an engine of its own, which needs no copies to the host."""

    def connect(self, workers: Workers) -> Engine:
        """Return an engine for this model, connected with those of the other workers.

        All workers call it together. They have models of the same backend in the same version, all on CPUs or
        each on a GPU of its own.

        Raises:
            UserError: The framework or the machine cannot.
        """
        ...


class MultiFormatModel(Model, Protocol):
    """A model of a backend whose `Backend.exports` names several formats."""

    def export(self, directory: Path, metadata: Mapping[str, str], form: str | None = None) -> None:
        """Write the prediction as `Model.export` does.

        Args:
            directory: As for `Model.export`.
            metadata: As for `Model.export`.
            form: One of `Backend.exports`. None writes the first one, and others that current programs read.

        Raises:
            UserError: The installed framework cannot write this format.
            OSError: The folder cannot be written.
        """
        ...


class Implementation(Protocol):
    """The module that a backend's descriptor names."""

    def list_devices(self) -> list[str]:
        """Return the devices that the framework sees, "cpu" first."""
        ...

    def compile(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> Model:
        """Build the plan for one of `list_devices`; the weights are undefined until `load_state`."""
        ...

    def predict_exported(self, directory: Path, images: Array) -> Array | tuple[Array, Array]:
        """Return probabilities computed on the CPU from what `Model.export` wrote.

        Of a network with the existence head, return what `ExistenceModel.predict_with_existence` returns.

        The framework's own loader reads the files. A backend with `exports` needs this function:
        `run.py export` checks its files with it.

        Args:
            directory: The folder given to `Model.export`.
            images: (N, H, W, 1) float32, with any N.
        """
        ...


class Float64Reference(Model, Protocol):
    """A model of the reference in float64, which other backends are compared with."""

    def step_and_gradients(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> tuple[float, State]:
        """Do `train_step`; return the loss and gradients that `differentiate` would have returned."""
        ...


def step_and_gradients(
    model: Model, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks
) -> tuple[float, State]:
    """Train one step; return the loss before it and its gradients.

    The float64 reference is slow, so it computes both at once.
    """
    if hasattr(model, "step_and_gradients"):
        return cast(Float64Reference, model).step_and_gradients(images, masks, scalars, keep)
    gradients = model.differentiate(images, masks, keep).gradients
    return float(model.train_step(images, masks, scalars, keep)), gradients


class ReferenceImplementation(Protocol):
    """The function that only the reference has: it compiles the model that others are compared with."""

    def compile_reference(
        self, plan: Plan, rules: TrainingRules, precision: Precision, draw: int | None = None
    ) -> Float64Reference:
        """Compile a model that computes in float64 what a model of `precision` should compute.

        Args:
            plan: The plan to compile.
            rules: The rules of training.
            precision: Precision of the models that it is compared with.
            draw: Number of the random perturbation of its arrays (`core.tolerance.budget`); None for none.
        """
        ...


@dataclass(frozen=True)
class WeightFiles:
    """The files of weights that a backend reads for `run.py weights`.

    Args:
        title: The program that writes them, for people.
        module: The module with `read_weights`: see `core.backend.weight_files`.
        suffixes: The endings of their names.
        writes: Whether the module has `write_weights`.
        needs_framework: Whether the framework must be installed.
    """

    title: str
    module: str
    suffixes: tuple[str, ...]
    writes: bool = False
    needs_framework: bool = True


@dataclass(frozen=True)
class Backend:
    """The descriptor of a backend.

    Args:
        name: The name given to `-f`, and the beginning of the output folder's name (`NAME_model`).
        title: The framework's name for people.
        module: The framework's top-level module; None if NumPy is enough.
        distributions: Names under which the framework may be installed.
        install: The command that installs it.
        implementation: The module with `list_devices` and `compile`; importing it imports the framework.
        exports: The names of the formats that `Model.export` writes, as `run.py export --to` takes them.
            If there are several, the models are `MultiFormatModel`.
        trains: Whether it can train. If not, it refuses `train_step`, `differentiate` and `update` with the
            reason.
        precisions: The precisions in which it can predict.
        weight_files: The files of weights that it reads; None if there are none.
    """

    name: str
    title: str
    module: str | None
    distributions: tuple[str, ...]
    install: str
    implementation: str
    exports: tuple[str, ...] = ()
    trains: bool = True
    precisions: tuple[Precision, ...] = precisions.PRECISIONS
    weight_files: WeightFiles | None = None

    def is_available(self) -> bool:
        """Return whether the framework can be found, without importing it."""
        with contextlib.suppress(ImportError, ValueError):  # raised for a package that contains the module
            return self.module is None or importlib.util.find_spec(self.module) is not None
        return False

    def version(self) -> str | None:
        """Return the framework's version, or None if it is not installed, without importing it."""
        for distribution in self.distributions:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(distribution)
        return None

    def load(self) -> Implementation:
        """Import the implementation, and the framework with it."""
        return cast(Implementation, importlib.import_module(self.implementation))
