"""Export of a predicting network, with its metadata, to files that PyTorch's own loaders read.

Each file takes images (N, H, W, C), float32, with any N, and returns probabilities (N, H, W, 1), float32,
whatever the network computes in. With the existence head it returns a pair of these and the probabilities of
existence, (N,). It is written for the CPU, and does not need a processor with products of 16 bits.

    pt2           model.pt2   `torch.export.load`
    torchscript   model.pt    `torch.jit.load`, its predecessor; deprecated (PyTorch 2.13), written as long as
                              PyTorch can
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from backends.torch import operations
from backends.torch.framework import torch
from backends.torch.operations import Tensor
from core.backend.contract import Array
from core.base.errors import UserError
from core.base.programs import command_line
from core.base.rounding import Half
from core.network.plan import Plan

TORCHSCRIPT, PT2 = "torchscript", "pt2"
_FILES = {TORCHSCRIPT: "model.pt", PT2: "model.pt2"}


class Prediction(torch.nn.Module):  # type: ignore[misc] # without PyTorch's types it is of any class
    """A network to be exported.

    Args:
        plan: What it computes.
        arrays: Its parameters and statistics by their names, on the CPU.
        half: The type that a mixed precision rounds to; None for no rounding.
    """

    def __init__(self, plan: Plan, arrays: Mapping[str, Tensor], half: Half | None) -> None:
        super().__init__()
        self._plan = plan
        self._products = operations.products(half, multiplies=False)
        for name, array in arrays.items():
            self.register_buffer(name.replace("/", "_"), array)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return probabilities (N, H, W, 1) of images (N, H, W, C), and those of existence (N,), float32."""
        arrays = {array.name: getattr(self, array.name.replace("/", "_")) for array in self._plan.arrays}
        dtype = next(self.buffers()).dtype
        inner = images.to(dtype).permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
        logits, _ = operations.forward(self._plan, inner, arrays, None, (), self._products)
        masks, existence = operations.probabilities(logits)
        masks = masks.permute(0, 2, 3, 1).to(torch.float32)
        return masks if existence is None else (masks, existence.flatten().to(torch.float32))


def write(
    prediction: Prediction,
    image: tuple[int, ...],
    directory: Path,
    metadata: Mapping[str, str],
    form: str | None,
) -> None:
    """Write a network into a folder.

    Args:
        prediction: The network.
        image: (H, W, C) of the images that it will be given.
        directory: The folder; made if it is not there.
        metadata: Written to extra files inside the file.
        form: "pt2" or "torchscript"; None is "pt2", and "torchscript" too if PyTorch still writes it.

    Raises:
        UserError: This PyTorch does not write the format.
        OSError: The folder cannot be written.
    """
    both = [PT2, TORCHSCRIPT] if _writes_torchscript() else [PT2]
    writers = {TORCHSCRIPT: _as_torchscript, PT2: _as_pt2}
    files = {_FILES[each]: writers[each](prediction, image, metadata) for each in ([form] if form else both)}
    directory.mkdir(parents=True, exist_ok=True)
    # PyTorch does not write the files: it takes all file names for UTF-8, and its errors give no reason.
    for name, content in files.items():
        (directory / name).write_bytes(content)


def predict(directory: Path, images: Array) -> Array | tuple[Array, Array]:
    """Predict on the CPU with the file that `write` wrote into a folder."""
    tensor = torch.from_numpy(np.array(images, np.float32))
    with _without_deprecations(), torch.inference_mode():
        if (directory / _FILES[PT2]).is_file():
            network = torch.export.load(io.BytesIO((directory / _FILES[PT2]).read_bytes())).module()
        else:
            content = (directory / _FILES[TORCHSCRIPT]).read_bytes()
            network = torch.jit.load(io.BytesIO(content), map_location="cpu")
        found = network(tensor)
    if isinstance(found, torch.Tensor):
        probabilities: Array = found.numpy()
        return probabilities
    masks, existence = found
    return masks.numpy(), existence.numpy()


def _as_torchscript(prediction: Prediction, image: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
    if not _writes_torchscript():
        raise UserError(
            f"PyTorch {torch.__version__} no longer writes TorchScript.",
            f"Its successor holds the same: {command_line('export', '--to pt2')}.",
        )
    file = io.BytesIO()
    with _without_deprecations(), torch.no_grad():
        # A tensor made from numbers of the plan becomes a constant of the file, as it should.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.save(torch.jit.trace(prediction, torch.zeros(1, *image)), file, dict(metadata))
    return file.getvalue()


def _as_pt2(prediction: Prediction, image: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    sizes = {"images": {0: torch.export.Dim("n", min=1)}}
    # Two images, since PyTorch takes a size of 1 for a constant.
    with _without_deprecations(), torch.no_grad():
        program = torch.export.export(
            prediction, (torch.zeros(2, *image),), dynamic_shapes=sizes, strict=False
        )
        torch.export.save(program, file, extra_files=dict(metadata))
    return file.getvalue()


def _writes_torchscript() -> bool:
    return hasattr(getattr(torch, "jit", None), "trace")


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Ignore PyTorch's warnings that recommend `torch.export` instead of TorchScript."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield
