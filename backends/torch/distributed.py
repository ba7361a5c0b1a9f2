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
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from backends.torch.framework import torch
from backends.torch.operations import Tensor
from core.backend.contract import Array, DropoutMasks, ExchangeError, Workers
from core.backend.training_rules import StepScalars
from core.base.errors import UserError


class DeviceEngine:
    """`core.backend.contract.Engine` on a device.

    A flat has the gradients and the statistics, each in the layout of the device, then the loss, then zeros.

    Args:
        shapes: The shapes of all gradients and batch statistics on the device, by their names.
        zero: (1,), a zero of the model's type on its device.
        differentiate: Returns the loss of a shard, and its gradients and statistics.
        update: Updates the model with gradients and statistics.
        workers: The other workers. With one alone nothing is connected.

    Raises:
        ExchangeError: The workers do not find each other.
        UserError: This PyTorch cannot do it.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        zero: Tensor,
        differentiate: Callable[..., tuple[Tensor, Mapping[str, Tensor]]],
        update: Callable[[Mapping[str, Tensor], StepScalars], None],
        workers: Workers,
    ) -> None:
        self._shapes, self._differentiate, self._update = shapes, differentiate, update
        self._workers = len(workers.hosts)
        sizes = [*map(math.prod, shapes.values()), 1]
        self._part = -(-sum(sizes) // self._workers)
        self._sizes = [*sizes, self._part * self._workers - sum(sizes)]
        self._padding = zero.repeat(self._sizes[-1])
        if workers.hosts[1:]:
            _connect(workers, zero.device)

    def derivatives(
        self, images: Array, masks: Array, keep: DropoutMasks | None, draw: int, weight: float
    ) -> Tensor:
        """Return the derivatives of a shard, times its weight."""
        loss, found = self._differentiate(images, masks, keep, draw)
        arrays = [*(found[name] for name in self._shapes), loss, self._padding]
        flat = torch.cat([array.detach().reshape(-1) for array in arrays])
        return flat.mul_(torch.tensor(weight, dtype=flat.dtype).item())

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        """Add to the left one."""
        return left.add_(right)

    def scatter(self, flat: Tensor | None, senders: Sequence[int]) -> list[Tensor]:
        """Send and receive parts."""
        sends = self._padding.new_empty(0) if flat is None else flat
        received = self._padding.new_empty(self._part * len(senders))
        receive = [self._part if worker in senders else 0 for worker in range(self._workers)]
        send = [len(sends) // self._workers] * self._workers
        with _one_line():
            torch.distributed.all_to_all_single(received, sends, receive, send)
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
        of_shapes = zip(self._shapes.items(), arrays, strict=True)
        self._update({name: array.view(*shape) for (name, shape), array in of_shapes}, scalars)
        return loss.clone().reshape(())  # a view would keep the memory of the whole flat


def _connect(workers: Workers, device: Any) -> None:
    """Make the process group of all workers, until the work ends.

    Worker 0 opens a port for the meeting. On one machine the others reach it by the loopback address.
    """
    if not torch.distributed.is_available():
        raise UserError("--exchange backend: this build of PyTorch has no torch.distributed")
    kind, gpu = ("gloo", None) if device.type == "cpu" else ("nccl", device)
    limit, count = timedelta(seconds=workers.patience_s), len(workers.hosts)
    with _one_line():
        if workers.worker == 0:
            _, *others = set(workers.hosts)
            host = workers.hosts[0] if others else "127.0.0.1"
            store = torch.distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=limit)
            workers.command((host, store.port))
        else:
            host, port = workers.command()
            store = torch.distributed.TCPStore(host, port, is_master=False, timeout=limit)
        torch.distributed.init_process_group(
            kind, store=store, rank=workers.worker, world_size=count, timeout=limit, device_id=gpu
        )
    workers.at_end(torch.distributed.destroy_process_group)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn an error of torch.distributed into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[\S*\] ", "", str(error).strip().splitlines()[0])  # without a file of C++
        raise ExchangeError(f"the exchange by torch.distributed failed: {reason}") from None
