"""A plan written as ONNX and run by ONNX Runtime, for predictions and their loss. It does not train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from backends.onnx import operations, sizes
from backends.onnx.devices import list_devices
from backends.onnx.framework import onnx, open_session
from backends.onnx.graph import Graph, Shape
from backends.onnx.losses import Losses
from backends.onnx.operations import Logits
from core.backend.contract import Array, DropoutMasks, Precision, State, exported_product_type
from core.backend.state import check_state, state_shapes
from core.backend.training_rules import StepScalars, TrainingRules
from core.base.byte_images import as_numbers
from core.base.errors import UserError
from core.network.plan import Plan, require_operations

__all__ = ["FILE", "ONNXModel", "compile", "list_devices", "predict_exported"]

FILE = "model.onnx"
"""The name of the file that `export` writes."""

_IMAGES, _MASKS, _PROBABILITIES, _EXISTENCE = "images", "masks", "probabilities", "existence"


class ONNXModel:
    """Model in ONNX Runtime; `core.backend.contract.Model` specifies the methods.

    The model keeps the arrays, moments too, in NumPy. The first prediction after `load_state` gives them to
    ONNX Runtime.
    """

    def __init__(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> None:
        if precision == "float64":
            raise UserError(
                "ONNX Runtime has no convolution in float64 on the CPU, and this model is to compute in it",
                "Predict with a backend that has it, or train with training.precision=float32.",
            )
        self._plan, self._rules, self._device, self._precision = plan, rules, device, precision
        shapes = state_shapes(plan, rules)
        self._arrays: State = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._sessions: dict[str, Any] = {}

    def train_step(
        self, images: Array, masks: Array, scalars: StepScalars, keep: DropoutMasks | None = None
    ) -> NoReturn:
        """Raise `UserError`: ONNX Runtime does not train."""
        del images, masks, scalars, keep
        raise _no_training()

    def evaluate(self, images: Array, masks: Array) -> tuple[float, Array]:
        """Return loss and probabilities with running statistics."""
        if "evaluate" not in self._sessions:
            graph, logits = self._predicting()
            truth = graph.input(_MASKS, np.uint8, self._shape(self._plan.output.output))
            truth = graph.node("Cast", _channels_first(graph, truth), to=onnx.TensorProto.FLOAT)
            loss = Losses(graph, logits.masks, truth, logits.existence).total(self._rules.loss)
            graph.output(loss, np.float32, ())
            self._sessions["evaluate"] = open_session(graph.model({}).SerializeToString(), self._device)
        inputs = {_IMAGES: _floats(images), _MASKS: np.ascontiguousarray(masks, np.uint8)}
        probabilities, *_, loss = self._sessions["evaluate"].run(None, inputs)
        return float(loss), probabilities

    def predict(self, images: Array) -> Array:
        """Return probabilities."""
        return self._predict(images)[0]

    def predict_with_existence(self, images: Array) -> tuple[Array, Array]:
        """Return probabilities, and those of existence."""
        masks, existence = self._predict(images)
        return masks, existence

    def _predict(self, images: Array) -> list[Array]:
        """Return the outputs of the graph from images to probabilities."""
        if "predict" not in self._sessions:
            model = self._predicting()[0].model({})
            self._sessions["predict"] = open_session(model.SerializeToString(), self._device)
        return list(self._sessions["predict"].run(None, {_IMAGES: _floats(images)}))

    def differentiate(
        self, images: Array, masks: Array, keep: DropoutMasks | None = None, draw: int = 0
    ) -> NoReturn:
        """Raise `UserError`: ONNX Runtime does not train."""
        del images, masks, keep, draw
        raise _no_training()

    def update(self, gradients: State, statistics: State, scalars: StepScalars) -> NoReturn:
        """Raise `UserError`: ONNX Runtime does not train."""
        del gradients, statistics, scalars
        raise _no_training()

    def state(self) -> State:
        """Return copies of all arrays."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Put arrays back."""
        check_state(state, state_shapes(self._plan, self._rules))
        for name, array in self._arrays.items():
            array[...] = state[name]
        self._sessions.clear()

    def export(self, directory: Path, metadata: Mapping[str, str]) -> None:
        """Write `model.onnx`: input `images`, output `probabilities`.

        With the existence head `existence`, (N,), is a second output.
        N is dynamic, and so are height and width if the network allows it (`backends.onnx.sizes`). The
        metadata says of which number each must be a multiple.
        """
        found = {axis: sizes.step(self._plan, axis) for axis in sizes.AXES}
        steps = {f"{axis}_multiple": str(step) for axis, step in found.items() if step is not None}
        graph, _ = self._predicting()
        notes = "images to probabilities, (N, H, W, 1) float32"
        if self._plan.existence is not None:
            notes += ", and probabilities of existence, (N,) float32"
        model = graph.model({**metadata, **steps}, notes)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / FILE).write_bytes(model.SerializeToString())

    def _predicting(self) -> tuple[Graph, Logits]:
        """Return the graph from images to probabilities, and its logits."""
        graph, plan = Graph(), self._plan
        images = _channels_first(graph, graph.input(_IMAGES, np.float32, self._shape(plan.input)))
        half = exported_product_type(self._precision)
        logits = operations.forward(plan, graph, images, self._arrays, half)
        probabilities = operations.sigmoid(graph, logits.masks, plan.output.name)
        graph.node("Transpose", probabilities, name=_PROBABILITIES, perm=(0, 2, 3, 1))
        graph.output(_PROBABILITIES, np.float32, self._shape(plan.output.output))
        if plan.existence is not None and logits.existence is not None:
            existence = operations.sigmoid(graph, logits.existence, plan.existence.name)
            graph.node("Reshape", existence, graph.integers(-1), name=_EXISTENCE)
            graph.output(_EXISTENCE, np.float32, ["N"])
        return graph, logits

    def _shape(self, tensor: Any) -> Shape:
        """Return the shape (N, H, W, C) of images or masks, with names for the dynamic axes."""
        shape: list[int | str] = ["N"]
        for name, axis in zip("HW", sizes.AXES, strict=True):
            size, whole = getattr(tensor, axis), getattr(self._plan.input, axis)
            free = sizes.step(self._plan, axis) is not None
            shape.append(size if not free else name if size == whole else f"{name} out")
        return [*shape, tensor.channels]


def compile(plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> ONNXModel:  # noqa: A001
    """Compile the plan to ONNX, run by ONNX Runtime on one of `list_devices`."""
    require_operations(plan, operations.OPERATIONS, "onnx")
    return ONNXModel(plan, rules, device, precision)


def predict_exported(directory: Path, images: Array) -> Array | tuple[Array, Array]:
    """Predict on the CPU with the file that `export` wrote, after ONNX's own checker has checked it."""
    model = (directory / FILE).read_bytes()
    onnx.checker.check_model(model, full_check=True)
    session = open_session(model, "cpu")
    masks, *existence = session.run(None, {_IMAGES: _floats(images)})
    return (masks, existence[0]) if existence else masks


def _no_training() -> UserError:
    return UserError(
        "ONNX Runtime predicts only: it computes no gradients, so this backend does not train",
        "Train with another backend; what it leaves in its model folder predicts here (--model).",
    )


def _floats(images: Array) -> Array:
    return np.ascontiguousarray(as_numbers(images), np.float32)


def _channels_first(graph: Graph, x: str) -> str:
    return graph.node("Transpose", x, perm=(0, 3, 1, 2))
