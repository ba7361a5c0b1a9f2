"""A plan compiled to MXNet: one symbol and one `CachedOp` for each way the model is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.mxnet import batch_norm, convolutions, losses, operations, optimizers, sums
from backends.mxnet.devices import framework_device, list_devices
from backends.mxnet.framework import mx
from backends.mxnet.gradients import Symbol, linked_graph
from backends.mxnet.limits import check_precision
from backends.mxnet.symmetric_padding import best_flip
from core.backend.contract import (
    Array,
    Derivatives,
    DropoutMasks,
    Precision,
    State,
    array_type,
    product_type,
)
from core.backend.kernel_switches import Switch
from core.backend.outputs import Outputs
from core.backend.state import LOSS_SCALE, average_name, check_state, slot_name, state_shapes
from core.backend.trained_part import trained_part
from core.backend.training_rules import StepScalars, TrainingRules
from core.base.byte_images import LEVELS
from core.base.randomness import words
from core.base.system import hidden_stderr, utf8_name
from core.network.plan import Plan, require_operations

__all__ = ["MXNetModel", "compile", "list_devices", "predict_exported", "switches"]

_IMAGES, _MASKS = "images", "masks"


class MXNetModel:
    """Model in MXNet; `core.backend.contract.Model` specifies the methods."""

    def __init__(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> None:
        self._plan, self._rules, self._context = plan, rules, framework_device(device)
        self._trained = trained_part(plan, rules)
        self._dtype, self._optimize = array_type(precision), optimizers.update_of(rules.optimizer)
        self._narrow = product_type(precision)
        self._flip = best_flip(plan)
        self._flipped_plan = self._flip.plan(plan)
        self._on_cpu = device == "cpu"
        self._levels = mx.nd.array(LEVELS, ctx=self._context, dtype=self._dtype)
        self._arrays = {
            name: mx.nd.zeros(_inner_shape(shape), ctx=self._context, dtype=self._dtype)
            for name, shape in state_shapes(plan, rules).items()
        }
        self._training_graph: _TrainingGraph | None = None
        self._evaluate = _PredictionGraph(self._evaluating_symbol(), self._arrays, self._context)
        self._predict = _PredictionGraph(self._predicting_symbol(), self._arrays, self._context)

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> _Loss:
        """Update the model; return the loss before the update."""
        kept = self._draw(len(images), scalars.step) if keep is None else self._given_masks(keep)
        loss, gradients, statistics = self._differentiate(images, masks, kept)
        self._update_or_skip(gradients, statistics, scalars)
        return loss

    def _update_or_skip(
        self, gradients: Mapping[str, Any], statistics: Mapping[str, Any], scalars: StepScalars
    ) -> None:
        """Update the model; with a loss scale, keep the arrays if a gradient is not finite."""
        rule = self._rules.loss_scale
        if rule is None:
            self._update(gradients, statistics, scalars)
            return
        before = {name: array.copy() for name, array in self._arrays.items()}
        finite = optimizers.all_finite(gradients, self._dtype)
        self._update(gradients, statistics, scalars)
        for name, array in self._arrays.items():
            array[:] = optimizers.chosen(finite, array, before[name])
        optimizers.adapt_loss_scale(rule, self._arrays, finite)

    def _update(
        self, gradients: Mapping[str, Any], statistics: Mapping[str, Any], scalars: StepScalars
    ) -> None:
        if self._rules.clip_norm is not None:
            gradients = optimizers.clip_by_global_norm(gradients, self._rules.clip_norm)
        groups = scalars.groups
        for parameter in self._trained.parameters:
            name = parameter.name
            slots = [self._arrays[slot_name(slot, name)] for slot in self._rules.optimizer.slots]
            of_group = groups[self._trained.groups[name]]
            self._optimize(
                self._rules.optimizer, of_group, parameter, self._arrays[name], *slots, gradients[name]
            )
        for op in self._trained.batch_norms:
            for name in (op.moving_mean, op.moving_variance):
                running = self._arrays[name]
                running[:] = running * op.momentum + statistics[name] * (1 - op.momentum)
        if self._rules.average_decay is not None:
            self._average(scalars)

    def _average(self, scalars: StepScalars) -> None:
        """Move the moving averages towards their arrays."""
        for array in self._plan.arrays:
            average = self._arrays[average_name(array.name)]
            average += (self._arrays[array.name] - average) * scalars.average_share

    def evaluate(self, images: Array, masks: Array) -> tuple[_Loss, Array]:
        """Return loss and probabilities with running statistics."""
        inputs = {_IMAGES: self._floats(images), _MASKS: self._bytes(masks)}
        loss, probabilities = self._evaluate(inputs)
        return _Loss(loss), self._unflipped(probabilities)

    def predict(self, images: Array) -> Array:
        """Return probabilities."""
        found = self._predict({_IMAGES: self._floats(images)})
        return self._unflipped(found if self._plan.existence is None else found[0])

    def predict_with_existence(self, images: Array) -> tuple[Array, Array]:
        """Return probabilities, and those of existence."""
        masks, existence = self._predict({_IMAGES: self._floats(images)})
        return self._unflipped(masks), existence.asnumpy()

    def differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None = None, draw: int = 0
    ) -> Derivatives:
        """Return training loss, gradients and the batch's statistics; change nothing."""
        kept = self._draw(len(images), draw) if keep is None else self._given_masks(keep)
        loss, gradients, statistics = self._differentiate(images, masks, kept)
        return Derivatives(
            float(loss),
            {name: self._to_neutral(gradient) for name, gradient in gradients.items()},
            {array.name: self._to_neutral(statistics[array.name]) for array in self._trained.statistics},
        )

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> None:
        """Update the model with the gradients and statistics of a batch."""
        self._update_or_skip(
            {name: self._sent(array) for name, array in gradients.items()},
            {name: self._sent(array) for name, array in statistics.items()},
            scalars,
        )

    def state(self) -> State:
        """Return copies of all arrays."""
        return {name: self._to_neutral(array) for name, array in self._arrays.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put arrays back."""
        check_state(state, state_shapes(self._plan, self._rules))
        for name, array in self._arrays.items():
            array[:] = self._sent(state[name])

    def export(self, directory: Path, metadata: Mapping[str, str]) -> None:
        """Write `model-symbol.json` and `model-0000.params`: input `images`, output probabilities.

        With the existence head its probabilities, (N,), are a second output.
        """
        del metadata  # the format has no place for it
        directory.mkdir(parents=True, exist_ok=True)
        symbol = self._exported_symbol()
        kinds = dict.fromkeys(symbol.list_arguments(), "arg") | dict.fromkeys(
            symbol.list_auxiliary_states(), "aux"
        )
        arrays = {array.name: self._arrays[array.name] for array in self._plan.arrays} | _constants(
            symbol, self._context
        )
        saved = {f"{kinds[name]}:{name}": array for name, array in arrays.items()}
        try:
            with utf8_name(directory) as name:
                # By default MXNet leaves out the casts to 16 bits; the file would predict by another rule.
                symbol.save(f"{name}/model-symbol.json", remove_amp_cast=False)
                mx.nd.save(f"{name}/model-0000.params", saved)
        except mx.base.MXNetError as error:  # how MXNet reports a full disk
            raise OSError("MXNet could not write the parameters; is the disk full?") from error

    def _floats(self, images: Array) -> Any:
        if images.dtype == np.uint8:
            return mx.nd.take(self._levels, self._bytes(images).astype(np.int32))
        return mx.nd.array(self._flip.pixels(images), ctx=self._context, dtype=self._dtype)

    def _bytes(self, masks: Array) -> Any:
        return mx.nd.array(self._flip.pixels(masks), ctx=self._context, dtype=np.uint8)

    def _unflipped(self, probabilities: Any) -> Array:
        """Return the probabilities as an array of NumPy, no longer flipped."""
        return np.ascontiguousarray(self._flip.pixels(probabilities.asnumpy()))

    def _sent(self, array: Array) -> Any:
        """Send an array of the state to the device, in the inner layout."""
        inner = self._flip.kernel(array).transpose(3, 2, 0, 1) if array.ndim == 4 else array
        return mx.nd.array(inner, ctx=self._context, dtype=self._dtype)

    def _to_neutral(self, array: Any) -> Array:
        host: Array = array.asnumpy()
        if host.ndim != 4:
            return host
        return np.ascontiguousarray(self._flip.kernel(host.transpose(2, 3, 1, 0)))

    def _given_masks(self, keep: DropoutMasks) -> dict[str, Any]:
        return {op.name: self._bytes(keep[op.name]) for op in self._plan.dropouts}

    def _draw(self, count: int, step: int) -> dict[str, Any]:
        """Draw dropout masks from MXNet's own generator, keyed by seed, name and step."""
        masks = {}
        for op in self._plan.dropouts:
            key = words(self._rules.seed, "dropout", op.name, step, count=1)[0] >> np.uint64(33)
            mx.random.seed(int(key), ctx=self._context)
            shape = (count, op.output.height, op.output.width, op.output.channels)
            masks[op.name] = mx.nd.random.uniform(shape=shape, ctx=self._context) >= op.rate
        return masks

    def _differentiate(
        self, images: Array, masks: Array, keep: dict[str, Any]
    ) -> tuple[_Loss, dict[str, Any], dict[str, Any]]:
        """Return loss, gradients and the batch's statistics."""
        inputs = {_IMAGES: self._floats(images), _MASKS: self._bytes(masks), **keep}
        loss, gradients, statistics = self._get_training_graph()(inputs)
        return _Loss(loss), gradients, statistics

    def _get_training_graph(self) -> _TrainingGraph:
        if self._training_graph is None:
            logits, masks, statistics, pullback = self._symbols(training=True)
            loss, d_logits = losses.total(self._rules.loss, logits, masks, self._dtype)
            if self._rules.loss_scale is None:
                gradients = pullback(d_logits)
            else:
                variable = mx.sym.Variable(LOSS_SCALE)
                scale = {axes: mx.sym.reshape(variable, shape=(1,) * axes) for axes in (1, 4)}
                scaled = pullback(d_logits.mapped(lambda slope: mx.sym.broadcast_mul(slope, scale[4])))
                gradients = {
                    parameter.name: mx.sym.broadcast_div(scaled[parameter.name], scale[len(parameter.shape)])
                    for parameter in self._trained.parameters
                }
            self._training_graph = _TrainingGraph(loss, gradients, statistics, self._arrays, self._context)
        return self._training_graph

    def _symbols(
        self, *, training: bool
    ) -> tuple[Outputs, Symbol, dict[str, Symbol], Callable[[Outputs], dict[str, Symbol]]]:
        """Return logits and masks, (N, 1, H, W), then the other results of `operations.forward`."""
        arrays = {array.name: mx.sym.Variable(array.name) for array in self._plan.arrays}
        keep = {op.name: self._channels_first(op.name) for op in self._plan.dropouts} if training else None
        images = self._channels_first(_IMAGES)
        logits, statistics, pullback = operations.forward(
            self._flipped_plan,
            self._trained,
            images,
            arrays,
            keep,
            self._dtype,
            self._on_cpu,
            self._narrow,
        )
        return logits, self._channels_first(_MASKS), statistics, pullback

    def _channels_first(self, name: str) -> Symbol:
        variable = mx.sym.Variable(name)
        return mx.sym.transpose(mx.sym.cast(variable, dtype=self._dtype), axes=(0, 3, 1, 2))

    def _evaluating_symbol(self) -> Symbol:
        logits, masks, *_ = self._symbols(training=False)
        loss, _ = losses.total(self._rules.loss, logits, masks, self._dtype)
        return mx.sym.Group([loss, *_probabilities(logits)[:1]])

    def _predicting_symbol(self) -> Symbol:
        logits, *_ = self._symbols(training=False)
        return _grouped(_probabilities(logits))

    def _exported_symbol(self) -> Symbol:
        """Return the predicting symbol, which flips images and probabilities and casts them itself."""
        logits, *_ = self._symbols(training=False)
        axes, outputs = self._flip.axes, _probabilities(logits)
        if self._dtype != "float32":  # images may be of any type already
            outputs = [mx.sym.cast(output, dtype="float32") for output in outputs]
        if not axes:
            return _grouped(outputs)
        flipped = mx.sym.reverse(mx.sym.Variable(_IMAGES), axis=axes)
        masks, *existence = _grouped(outputs)(**{_IMAGES: flipped})
        return _grouped([mx.sym.reverse(masks, axis=axes), *existence])


class _PredictionGraph:
    """A symbol that runs on the model's arrays and on the inputs of a call, both given by name."""

    def __init__(self, symbol: Symbol, arrays: Mapping[str, Any], context: Any) -> None:
        self._names, self._arrays = symbol.list_inputs(), {**arrays, **_constants(symbol, context)}
        self._run = mx.nd.CachedOp(symbol, [("static_alloc", True), ("static_shape", True)])

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        return self._run(*(inputs[name] if name in inputs else self._arrays[name] for name in self._names))


class _TrainingGraph:
    """A training graph: the loss, the parameters' gradients and the batch's statistics, these two by name.

    It runs as an executor. A `CachedOp` would look for the gradients of its gradients.
    """

    def __init__(
        self,
        loss: Symbol,
        gradients: Mapping[str, Symbol],
        statistics: Mapping[str, Symbol],
        arrays: Mapping[str, Any],
        context: Any,
    ) -> None:
        self._gradients, self._statistics = tuple(gradients), tuple(statistics)
        self._symbol = linked_graph([loss, *gradients.values(), *statistics.values()])
        self._context, self._arrays = context, {**arrays, **_constants(self._symbol, context)}
        self._executors: dict[int, Any] = {}

    def __call__(self, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Return all three for a batch. The next call overwrites the gradients and the statistics."""
        count = len(inputs[_IMAGES])
        if count not in self._executors:
            self._executors[count] = self._bind(inputs)
        executor = self._executors[count]
        for name, array in inputs.items():
            if name in executor.arg_dict:
                array.copyto(executor.arg_dict[name])
        loss, *results = executor.forward(is_train=True)
        gradients, statistics = results[: len(self._gradients)], results[len(self._gradients) :]
        return (
            loss.copy(),
            dict(zip(self._gradients, gradients, strict=True)),
            dict(zip(self._statistics, statistics, strict=True)),
        )

    def _bind(self, inputs: Mapping[str, Any]) -> Any:
        """Make an executor for batches of this size, in the memory of the one for the largest size so far."""
        arrays = {**self._arrays, **{name: array.copy() for name, array in inputs.items()}}
        with hidden_stderr():  # MXNet writes each time that it does not fuse operations
            return self._symbol.bind(
                self._context,
                {name: arrays[name] for name in self._symbol.list_arguments()},
                grad_req="null",
                aux_states={name: arrays[name] for name in self._symbol.list_auxiliary_states()},
                shared_exec=self._executors[max(self._executors)] if self._executors else None,
            )


@dataclass(frozen=True)
class _Loss:
    """A loss that MXNet may still be computing; `float()` waits for it."""

    array: Any

    def __float__(self) -> float:
        return float(self.array.asscalar())


def compile(plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> MXNetModel:  # noqa: A001
    """Compile the plan to MXNet on one of `list_devices`."""
    require_operations(plan, operations.OPERATIONS, "mxnet")
    check_precision(precision, device)
    return MXNetModel(plan, rules, device, precision)


def switches() -> tuple[Switch, ...]:
    """Return the numbers at which kernels change."""
    return (
        batch_norm.MANY_PIXELS,
        sums.WINDOW_SIDE,
        convolutions.SEVERAL_CHANNELS,
        convolutions.FILTER_BLOCK,
    )


def predict_exported(directory: Path, images: Array) -> Array | tuple[Array, Array]:
    """Predict on the CPU with the files that `export` wrote."""
    with utf8_name(directory) as name:
        symbol, arguments, statistics = mx.model.load_checkpoint(f"{name}/model", 0)
    graph = _PredictionGraph(symbol, arguments | statistics, mx.cpu())
    found = graph({_IMAGES: mx.nd.array(images, ctx=mx.cpu(), dtype=images.dtype)})
    if isinstance(found, list):
        masks, existence = found
        return masks.asnumpy(), existence.asnumpy()
    probabilities: Array = found.asnumpy()
    return probabilities


def _constants(symbol: Symbol, context: Any) -> dict[str, Any]:
    found = batch_norm.constants(symbol.list_inputs())
    return {name: mx.nd.array(array, ctx=context, dtype=array.dtype) for name, array in found.items()}


def _probabilities(logits: Outputs) -> list[Symbol]:
    """Return probabilities (N, H, W, 1) and, with the existence head, those of existence (N,)."""
    masks, existence = operations.probabilities(logits)
    found = [mx.sym.transpose(masks, axes=(0, 2, 3, 1))]
    return found if existence is None else [*found, mx.sym.reshape(existence, shape=(-1,))]


def _grouped(symbols: list[Symbol]) -> Symbol:
    return symbols[0] if len(symbols) == 1 else mx.sym.Group(symbols)


def _inner_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape
