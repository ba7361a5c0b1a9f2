"""The engine of several workers on their devices, by torch.distributed: gloo on CPUs, NCCL on GPUs.

`DeviceEngine` adds what `core.distribution.step` tells it to add, and its exchanges only move numbers. So the
bits are those of the exchange by MPI. No method waits for a GPU. MPI has started the workers and tells them
the address at which they meet.

Sources: PyTorch 2.13, "Distributed communication package - torch.distributed" (TCPStore, all_to_all_single,
all_gather; with NCCL a call without `async_op` orders the streams and does not wait).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from backends.torch.framework import torch
from backends.torch.operations import Tensor
from core.backend.contract import Array, DropoutMasks, ExchangeError, Workers
from core.backend.training_rules import StepScalars
from core.base.errors import UserError

Shapes = Mapping[str, Sequence[int]]


class DeviceEngine:
    """`core.backend.contract.Engine` on a device.

    A flat has the gradients and the statistics, each in the layout of the device, then the loss, then zeros.

    Args:
        gradients: The shape of each gradient on the device.
        statistics: The shape of each batch statistic on the device.
        device: PyTorch's device.
        dtype: The name of the arrays' type.
        differentiate: Returns loss, gradients and statistics of a shard.
        update: Updates the model with gradients and statistics.
        workers: The other workers. With one alone nothing is connected.

    Raises:
        ExchangeError: The workers do not find each other.
        UserError: This PyTorch cannot do it.
    """

    def __init__(
        self,
        gradients: Shapes,
        statistics: Shapes,
        device: Any,
        dtype: str,
        differentiate: Callable[..., tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]],
        update: Callable[[Mapping[str, Tensor], Mapping[str, Tensor], StepScalars], None],
        workers: Workers,
    ) -> None:
        self._gradients, self._statistics = gradients, statistics
        self._differentiate, self._update = differentiate, update
        self._number_type, self._workers = np.dtype(dtype).type, len(workers.hosts)
        sizes = [math.prod(shape) for shape in (*gradients.values(), *statistics.values())] + [1]
        self._part = -(-sum(sizes) // self._workers)
        self._sizes = [*sizes, self._part * self._workers - sum(sizes)]
        self._padding = torch.zeros(self._sizes[-1], dtype=getattr(torch, dtype), device=device)
        if self._workers > 1:
            _connect(workers, device)

    def derivatives(
        self, images: Array, masks: Array, keep: DropoutMasks | None, draw: int, weight: float
    ) -> Tensor:
        """Return the derivatives of a shard, times its weight."""
        loss, gradients, statistics = self._differentiate(images, masks, keep, draw)
        arrays = [gradients[name] for name in self._gradients]
        arrays += [statistics[name] for name in self._statistics]
        flat = torch.cat([*(array.detach().reshape(-1) for array in [*arrays, loss]), self._padding])
        return flat.mul_(float(self._number_type(weight)))

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        """Add to the left one."""
        return left.add_(right)

    def scatter(self, flat: Tensor | None, senders: Sequence[int]) -> list[Tensor]:
        """Send and receive parts."""
        sends = self._padding.new_empty(0) if flat is None else flat
        received = self._padding.new_empty(self._part * len(senders))
        receive = [self._part if worker in senders else 0 for worker in range(self._workers)]
        with _one_line():
            torch.distributed.all_to_all_single(
                received, sends, receive, [len(sends) // self._workers] * self._workers
            )
        return list(received.split(self._part))

    def gather(self, part: Tensor) -> Tensor:
        """Join the parts."""
        joined = self._padding.new_empty(self._part * self._workers)
        with _one_line():
            torch.distributed.all_gather(list(joined.split(self._part)), part)
        return joined

    def update(self, flat: Tensor, scalars: StepScalars) -> Tensor:
        """Update the model; return the loss, for which a GPU may still work."""
        *arrays, loss, _ = flat.split(self._sizes)
        shapes = [*self._gradients.values(), *self._statistics.values()]
        found = [array.view(*shape) for array, shape in zip(arrays, shapes, strict=True)]
        count = len(self._gradients)
        gradients = dict(zip(self._gradients, found[:count], strict=True))
        self._update(gradients, dict(zip(self._statistics, found[count:], strict=True)), scalars)
        return loss.clone().reshape(())  # a view would keep the memory of the whole flat


def _connect(workers: Workers, device: Any) -> None:
    """Make the process group of all workers, until the work ends.

    Worker 0 opens a port for the meeting. On one machine the others reach it by the loopback address.
    """
    if not torch.distributed.is_available():
        raise UserError("--exchange backend: this build of PyTorch has no torch.distributed")
    on_gpu = device.type != "cpu"
    limit = timedelta(seconds=workers.patience_s)
    with _one_line():
        if workers.worker == 0:
            host = "127.0.0.1" if len(set(workers.hosts)) == 1 else workers.hosts[0]
            store = torch.distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=limit)
            workers.command((host, store.port))
        else:
            host, port = workers.command()
            store = torch.distributed.TCPStore(host, port, is_master=False, timeout=limit)
        torch.distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=workers.worker,
            world_size=len(workers.hosts),
            timeout=limit,
            device_id=device if on_gpu else None,
        )
    workers.at_end(torch.distributed.destroy_process_group)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn an error of torch.distributed into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ExchangeError(f"the exchange by torch.distributed failed: {reason}") from None
