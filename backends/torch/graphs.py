"""A function of arrays as a CUDA graph, which a GPU runs without the host starting each of its kernels.

PyTorch computes eagerly, so the host starts some hundred kernels for each step. Where batches are small or a
network is narrow, a fast card waits for the host. A graph is recorded once and started whole.

This is off unless `PNEUMOSEG_CUDA_GRAPHS=1`: it has not run on a card yet (docs/gpu.md).

Source: PyTorch 2.13, "CUDA semantics", section "CUDA Graphs" (static inputs, warm-up in a stream of its own).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from backends.torch.framework import torch
from backends.torch.operations import Tensor

VARIABLE = "PNEUMOSEG_CUDA_GRAPHS"

Outputs: TypeAlias = tuple[Tensor, ...]
Recorded: TypeAlias = tuple[Callable[[], Any], Outputs]
"""What starts a recorded function again, and the arrays that it then fills."""


def use_graphs(device: Any) -> bool:
    """Return whether steps on a device are recorded."""
    return device.type == "cuda" and os.environ.get(VARIABLE) == "1"


def record(device: Any, function: Callable[[], Outputs]) -> Recorded:
    """Record a function of fixed arrays on a GPU. It must wait for nothing and change nothing."""
    with torch.cuda.device(device):
        computing, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(computing)
        with torch.cuda.stream(stream):
            for _ in range(3):  # in which cuDNN and cuBLAS take their workspaces
                function()
        computing.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = function()
    return graph.replay, outputs


class Graphed:
    """A function of arrays that is recorded when shapes and types of its arguments come twice in a row.

    Those of other arguments, as of an epoch's last, shorter batch, are computed without a graph: each graph
    would hold the memory of its activations.

    Args:
        function: The function. Besides its arguments it may read arrays that stay where they are.
        record: Records a function without arguments, as `record` on a device does.

    The results of a recorded call are overwritten by the next one.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        record: Callable[[Callable[[], Outputs]], Recorded],
    ) -> None:
        self._function, self._record = function, record
        self._before: list[Any] = []
        self._recorded: list[Any] = []
        self._inputs: list[Tensor] = []

    def __call__(self, *given: Tensor) -> Outputs:
        """Return the function's results."""
        kinds = [(one.shape, one.dtype) for one in given]
        before, self._before = self._before, kinds
        if not self._recorded and kinds == before:
            self._begin(given, kinds)
        elif kinds != self._recorded:
            return self._function(*given)
        for held, one in zip(self._inputs, given, strict=True):
            held.copy_(one)
        self._replay()
        return self._outputs

    def _begin(self, given: Sequence[Tensor], kinds: list[Any]) -> None:
        self._inputs = [one.clone() for one in given]
        self._replay, self._outputs = self._record(lambda: self._function(*self._inputs))
        self._recorded = kinds
