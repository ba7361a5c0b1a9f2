"""The layers of another program's file of weights, in the toolkit's terms: what a backend's reader returns.

A reader gives, for each layer by the file's own name, its arrays under the toolkit's names (`kernel`, `bias`,
`gamma`, `beta`, `moving_mean`, `moving_variance`) and in its layouts (`core.backend.state`). It runs no code
of the file. Which layer is which of a network is not its business (`core.weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError

FileLayers: TypeAlias = dict[str, dict[str, NDArray[Any]]]
"""Layer's name in the file -> part -> array, in the file's order."""

_PARTS = {
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "moving_mean": "moving_mean",
    "moving_var": "moving_variance",
}
_COUNTER = "num_batches_tracked"  # PyTorch's; nothing is computed with it unless momentum is None


class WeightFileReader(Protocol):
    """The module that a descriptor's `WeightFiles` names."""

    def read_weights(self, path: Path) -> FileLayers:
        """Return the layers of a file.

        Raises:
            UserError: The file cannot be read, is damaged, or holds something else.
        """
        ...


class WeightFileWriter(Protocol):
    """What such a module has in addition if the descriptor says `writes`."""

    def write_weights(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write arrays, by the names and in the layouts of the framework."""
        ...


def from_channels_first(arrays: Mapping[str, NDArray[Any]], separator: str = ".") -> FileLayers:
    """Return the layers of arrays in the layout and with the names of PyTorch or MXNet's Gluon.

    Args:
        arrays: `LAYER.weight`, `LAYER.bias`, `LAYER.running_mean`, ... A convolution's weight is (out, in,
            kh, kw), a transposed one's (in, out, kh, kw), a dense layer's (out, in).
        separator: What stands between a layer's name and its part.

    Raises:
        UserError: An array is no part of a convolution, a dense layer or a batch norm.
    """
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        layer, _, part = name.rpartition(separator)
        for known in _PARTS:  # `running_mean` contains the separator of Gluon's older names
            if name.endswith(separator + known):
                layer, part = name[: -len(separator + known)], known
        if part != _COUNTER:
            parts.setdefault(layer, {})[part] = array
    return {layer: _converted(layer, found) for layer, found in parts.items()}


def to_channels_first(part: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in the layout of PyTorch: the inverse of `from_channels_first` for one part."""
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1)) if part == "kernel" else array


def _converted(layer: str, found: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    normalises = "running_mean" in found or "gamma" in found
    converted = {}
    for part, array in found.items():
        if part in _PARTS:
            converted[_PARTS[part]] = array
        elif part == "bias":
            converted["beta" if normalises else "bias"] = array
        elif part == "weight" and array.ndim == 4:
            converted["kernel"] = np.ascontiguousarray(array.transpose(2, 3, 1, 0))
        elif part == "weight" and array.ndim == 2:
            converted["kernel"] = np.ascontiguousarray(array.T[np.newaxis, np.newaxis])
        elif part == "weight" and normalises:
            converted["gamma"] = array
        else:
            raise UserError(
                f"{layer}.{part} of shape {array.shape} is no array of a convolution, a dense layer or a "
                "batch norm",
                "Networks of other layers cannot be taken over.",
            )
    return converted
