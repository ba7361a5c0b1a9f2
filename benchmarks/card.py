"""What a graphics card does, by `nvidia-smi`, and the memory that a framework uses of it, by its own count.

Nothing here needs a card or `nvidia-smi`: without them all answers are None.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

PERIOD_MS = 100  # between two samples; the driver's own averages are over at least as long


def query(*fields: str) -> list[dict[str, str]] | None:
    """Return these fields of `nvidia-smi --query-gpu` for every card; None if it cannot tell."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.strip()]
    return [dict(zip(fields, row, strict=False)) for row in rows]


class CardWatch:
    """Samples of how busy a card is, by a thread, from `with` on.

    Args:
        device: As frameworks call it ("gpu", "gpu:1"); the CPU is not watched.
    """

    def __init__(self, device: str) -> None:
        self._samples: list[tuple[float, float]] = []
        self._process: subprocess.Popen[str] | None = None
        self._card = None if device == "cpu" else _card_of(device)

    def __enter__(self) -> CardWatch:
        if self._card is not None:
            command = ["nvidia-smi", "-i", self._card, "--query-gpu=utilization.gpu"]
            command += ["--format=csv,noheader,nounits", "-lms", str(PERIOD_MS)]
            try:
                self._process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            except OSError:
                return self
            threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def busy(self, spans: Iterable[tuple[float, float]]) -> float | None:
        """Return the mean share of the time that the card was busy, in spans of `time.monotonic`.

        The first sample of a span is left out: the driver's average goes back to before it.
        """
        found = []
        for begin, end in spans:
            found += [share for moment, share in self._samples if begin <= moment <= end][1:]
        return sum(found) / len(found) if found else None

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():  # else "[N/A]"
                self._samples.append((time.monotonic(), int(line) / 100))


def memory_counter(framework: str, device: str) -> Callable[[], int | None]:
    """Return a function for the peak, from now on, of the arrays of this process on a device, in bytes.

    It returns None on the CPU, for MXNet, which has no such count, and where the peak was reached earlier in
    the process and the framework cannot begin anew (JAX).
    """
    count = _COUNTERS.get(framework)
    if device == "cpu" or count is None:
        return lambda: None

    def counted(*, reset: bool = False) -> int | None:
        with contextlib.suppress(Exception):  # of any framework: a measurement goes on without this number
            found: int = count(reset=reset)
            return found
        return None

    before = counted(reset=True)

    def peak() -> int | None:
        found = counted()
        return found if found is not None and before is not None and found > before else None

    return peak


def _torch(*, reset: bool) -> int:
    import torch

    torch.cuda.init()
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.max_memory_allocated())


def _tf(*, reset: bool) -> int:
    import tensorflow as tf

    if reset:
        tf.config.experimental.reset_memory_stats("GPU:0")
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def _jax(*, reset: bool) -> int:
    import jax

    del reset
    return int(jax.local_devices(backend="gpu")[0].memory_stats()["peak_bytes_in_use"])


_COUNTERS: dict[str, Any] = {"torch": _torch, "tf": _tf, "jax": _jax}


def _card_of(device: str) -> str:
    """Return what `nvidia-smi -i` calls a device: CUDA_VISIBLE_DEVICES may hide cards."""
    number = int(device.partition(":")[2] or 0)
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return visible[number] if number < len(visible) and visible[number] else str(number)
