"""Files of weights of PyTorch: a state dict in `.pth`, `.pt` or `.bin`, read without running its code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.torch.framework import torch
from core.backend.weight_files import FileLayers, from_channels_first
from core.base.errors import UserError
from core.files.atomic import replacing

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which training scripts save the state dict beside other things."""


def read_weights(path: Path) -> FileLayers:
    """Return the layers of a state dict, which may lie under one of the usual keys."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about PyTorch's own older formats
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: PyTorch refuses to read it without running code: {_first_line(error)}",
            "Save the state dict alone: torch.save(model.state_dict(), FILE).",
        ) from error
    except Exception as error:  # a damaged file raises errors of every kind
        raise UserError(f"{path} is damaged, or no file of PyTorch: {_first_line(error)}") from error
    while isinstance(content, Mapping) and (
        key := next((k for k in _WRAPPERS if _is_dict(content, k)), None)
    ):
        content = content[key]
    if not isinstance(content, Mapping) or not content or not all(map(_is_tensor, content.items())):
        raise UserError(
            f"{path}: expected a state dict, which maps names to tensors",
            "Save it by torch.save(model.state_dict(), FILE).",
        )
    return from_channels_first({name: _as_array(path, name, tensor) for name, tensor in content.items()})


def write_weights(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a state dict for `torch.load` and `load_state_dict`."""
    with replacing(path) as temporary:
        torch.save({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, temporary)


def _is_dict(content: Mapping[Any, Any], key: str) -> bool:
    return isinstance(content.get(key), Mapping)


def _is_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], torch.Tensor)


def _as_array(path: Path, name: str, tensor: Any) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        raise UserError(f"{path}: {name} is in half precision (bfloat16)", "Save the weights in float32.")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise UserError(f"{path}: {name} is sparse or quantised", "Save the weights as float32.")
    return np.asarray(tensor.detach().numpy())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
