"""A builder for ONNX graphs.

The file needs only operator set 17, so that runtimes of many years read it (ONNX 1.12, 2022). Values have the
names that the plan gives them. `onnx.checker` checks the finished model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.onnx.framework import onnx
from core.base.errors import UserError
from core.base.programs import command_line

OPSET, IR_VERSION = 17, 8
LARGEST = 2**31 - 2**20
"""The most bytes of arrays: a protobuf message ends at 2 GiB, and other parts need some space."""

Shape = Sequence[int | str]
"""The shape of an input or output. A name stands for a size that is known only when the model runs."""


class Graph:
    """Collects nodes, arrays, inputs and outputs; values are known by their names."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._arrays: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._made_by: dict[str, Any] = {}
        self._bytes = 0

    def input(self, name: str, dtype: type[np.generic], shape: Shape) -> str:
        """Add an input and return its name."""
        self._inputs.append(_described(name, dtype, shape))
        return name

    def output(self, name: str, dtype: type[np.generic], shape: Shape) -> None:
        """Declare a value to be an output."""
        self._outputs.append(_described(name, dtype, shape))

    def array(self, name: str, values: NDArray[Any]) -> str:
        """Add an array to the model, once for each name, and return the name."""
        if name not in self._arrays:
            self._bytes += values.nbytes
            self._arrays[name] = onnx.numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def number(self, value: float) -> str:
        """Add a float32 constant and return its name, which is made of its value."""
        return self.array(f"constant/{value!r}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """Add an int64 constant with one axis and return its name, which is made of its values."""
        return self.array(f"constant/{list(values)}", np.array(values, np.int64))

    def node(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add an operator and return its output's name.

        Args:
            kind: ONNX's name for the operator.
            inputs: Names of values.
            name: Of the operator and its output; None for an automatic one.
            attributes: Of the operator.
        """
        return self.nodes(kind, *inputs, outputs=[name or f"{kind}/{len(self._nodes)}"], **attributes)[0]

    def nodes(self, kind: str, *inputs: str, outputs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Add an operator with several outputs and return their names."""
        node = onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)
        self._nodes.append(node)
        self._made_by |= dict.fromkeys(outputs, node)
        return outputs

    def made_by(self, value: str) -> Any:
        """Return the node that computes a value; None for an input or array."""
        return self._made_by.get(value)

    def model(self, metadata: Mapping[str, str], notes: str = "") -> Any:
        """Return the finished and checked `onnx.ModelProto`.

        Raises:
            UserError: The model is larger than an ONNX file can be.
        """
        if self._bytes > LARGEST:
            raise UserError(
                f"the network has {self._bytes / 2**30:.1f} GiB of weights; an ONNX file ends at 2 GiB",
                f"Export to another format ({command_line('export', '--to')}), or give the blocks fewer "
                "filters.",
            )
        graph = onnx.helper.make_graph(
            self._nodes, "pneumoseg", self._inputs, self._outputs, list(self._arrays.values())
        )
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="pneumoseg",
            doc_string=notes,
        )
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


def _described(name: str, dtype: type[np.generic], shape: Shape) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_value_info(name, kind, list(shape))
