"""Training loop in eager PyTorch, with `channels_last` on a GPU, where kernels are fastest with it."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from paired_timings import Turn
from torch import nn

from by_hand.batches import LEARNING_RATE, batches
from by_hand.networks import NETWORKS, Scale, Unit


class Layers(nn.Module):
    """Modules, made by the first pass through the network and used in the same order by the next."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self._network, self._made, self._next = network, nn.ModuleList(), 0

    def forward(self, x: Any) -> Any:
        self._next = 0
        return NETWORKS[self._network](self, x)

    def conv(self, x: Any, filters: int, stride: int = 1, kernel: int = 3) -> Any:
        make = nn.Conv2d
        return self._finish(
            self._layer(lambda: make(x.shape[1], filters, kernel, stride, kernel // 2), x), filters
        )

    def up(self, x: Any, filters: int) -> Any:
        return self._finish(
            self._layer(lambda: nn.ConvTranspose2d(x.shape[1], filters, 3, 2, 1, 1), x), filters
        )

    def head(self, x: Any, stride: int, kernel: int = 1) -> Any:
        if stride == 1:
            return self._layer(lambda: nn.Conv2d(x.shape[1], 1, kernel, 1, kernel // 2), x)
        return self._layer(lambda: nn.ConvTranspose2d(x.shape[1], 1, 3, 2, 1, 1), x)

    def concat(self, x: Any, skip: Any) -> Any:
        return torch.cat([x, skip], 1)

    def three(self, x: Any, scale: Scale) -> Any:
        mean, std = (torch.tensor(numbers, device=x.device)[:, None, None] for numbers in scale)
        return (x - mean) / std

    def unit(self, x: Any, unit: Unit) -> Any:
        channels, pads = x.shape[1], [unit.pads(length) for length in x.shape[2:]]
        pad = tuple(begin for begin, _ in pads)
        if pads != [(one, one) for one in pad]:
            (top, bottom), (left, right) = pads
            x, pad = nn.functional.pad(x, (left, right, top, bottom)), (0, 0)
        groups = channels if unit.depthwise else 1
        x = self._layer(
            lambda: nn.Conv2d(channels, unit.filters, unit.kernel, unit.stride, pad, 1, groups, bias=False), x
        )
        x = self._layer(lambda: nn.BatchNorm2d(unit.filters, unit.epsilon, 1 - unit.momentum), x)
        if unit.activation == "none":
            return x
        activation = nn.functional.relu if unit.activation == "relu" else nn.functional.relu6
        return activation(x, inplace=True)

    def pool(self, x: Any) -> Any:
        return nn.functional.max_pool2d(x, 3, 2, 1)

    def add(self, x: Any, y: Any, *, relu: bool) -> Any:
        x += y
        return torch.relu_(x) if relu else x

    def nearest(self, x: Any) -> Any:
        return nn.functional.interpolate(x, scale_factor=2, mode="nearest")

    def _finish(self, x: Any, filters: int) -> Any:
        return self._layer(lambda: nn.BatchNorm2d(filters), torch.relu(x))

    def _layer(self, make: Any, x: Any) -> Any:
        if self._next == len(self._made):
            self._made.append(make().to(x.device))
        self._next += 1
        return self._made[self._next - 1](x)


def loss_of(logits: Any, masks: Any) -> Any:
    """Return BCE and soft Dice of logits."""
    p = torch.sigmoid(logits)
    bce = nn.functional.binary_cross_entropy_with_logits(logits, masks)
    overlap = 2 * (p * masks).sum() + 1
    return bce + 1 - overlap / (p.sum() + masks.sum() + 1)


def loss_with(network: str, arrays: list[Any], images: Any, masks: Any) -> float:
    """Return the training loss with these parameters, whose kernels are (height, width, in, out)."""
    model = Layers(network)
    images, masks = (torch.from_numpy(array).permute(0, 3, 1, 2) for array in (images, masks))
    model(images)
    with torch.no_grad():
        for parameter, array in zip(model.parameters(), arrays, strict=True):
            parameter.copy_(torch.from_numpy(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array))
        return float(loss_of(model(images), masks))


def train(
    turn: Turn, network: str, batch_size: int, size: int, device: str, precision: str = "float32"
) -> None:
    """Train until there are no more turns."""
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = precision == "tf32", True
    half = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}.get(precision)
    where = torch.device("cpu" if device == "cpu" else "cuda")
    layout = torch.contiguous_format if device == "cpu" else torch.channels_last
    model = Layers(network).to(where)
    model(torch.zeros(2, 1, size, size, device=where))
    model = model.to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    data = [
        tuple(torch.from_numpy(array).permute(0, 3, 1, 2) for array in batch)
        for batch in batches(batch_size, size)
    ]
    scaler = torch.amp.GradScaler(where.type, enabled=half is torch.float16)
    turn.ready(version=torch.__version__)
    loss = previous = None
    for images, masks in itertools.cycle(data):
        images = images.to(where, memory_format=layout)
        masks = masks.to(where)
        with torch.autocast(where.type, half, enabled=half is not None):
            logits = model(images)
        previous, loss = loss, loss_of(logits.float(), masks)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if previous is not None:
            previous.item()
        turn.step_done(lambda: torch.cuda.synchronize() if where.type == "cuda" else None)
