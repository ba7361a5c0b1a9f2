#!/usr/bin/env python
"""Measure how fast backends predict, side by side.

    python benchmarks/prediction.py [-f tf -f mxnet -f onnx ...] [--config configs/fcn.yaml] [--size 384]
                                    [--batch-size 8] [--repetitions 9] [--device cpu] [--json FILE]

Each backend runs in a process of its own, with the same initial weights, on the same noise. They take turns,
so that other work on the machine affects all of them alike; while one predicts the others wait. The first
rounds, in which frameworks compile, do not count. The script prints median and range of images/s, median and
range of the ratios to the first backend (default: tf) of the same round, and the largest difference from the
first one's probabilities. It measures the wall time of `Model.predict` alone, from NumPy to NumPy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the line above finds the project
from numpy.typing import NDArray  # noqa: E402

from core.backend.contract import Implementation, Model, Precision  # noqa: E402
from core.backend.devices import choose_device  # noqa: E402
from core.backend.process import BackendProcess  # noqa: E402
from core.backend.registry import find_backend  # noqa: E402
from core.backend.state import initial_state  # noqa: E402
from core.base.errors import UserError  # noqa: E402
from core.base.precisions import PRECISIONS  # noqa: E402
from core.experiment.configuration import Configuration, load_configuration  # noqa: E402
from core.network.lowering import lower  # noqa: E402

WARM_UP = 2
_opened: dict[str, Model] = {}  # of a backend's process


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-f", "--framework", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--config", type=Path, default=ROOT / "configs/fcn.yaml")
    parser.add_argument("--size", type=int, default=384, help="rows and columns of the images")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=9, help="rounds that count")
    parser.add_argument("--device", default="cpu", metavar="auto|cpu|gpu|gpu:N")
    parser.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    names = list(dict.fromkeys(arguments.framework or ["tf", "mxnet", "onnx"]))
    try:
        rows = measure(arguments, names)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        facts = {key: str(getattr(arguments, key)) for key in ("config", "size", "batch_size", "precision")}
        arguments.json.write_text(json.dumps({**facts, "backends": rows}, indent=1) + "\n")
    return 0


def measure(arguments: argparse.Namespace, names: list[str]) -> dict[str, dict[str, Any]]:
    """Measure all rounds, and print the table."""
    configuration = load_configuration(arguments.config)
    images = np.random.default_rng(0).random(
        (arguments.batch_size, arguments.size, arguments.size, 1), dtype=np.float32
    )
    seconds: dict[str, list[float]] = {name: [] for name in names}
    found: dict[str, NDArray[Any]] = {}
    devices: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(BackendProcess(name)) for name in names}
        for name, process in processes.items():
            title = find_backend(name).title
            devices[name] = process.call(
                begin, configuration, images.shape[1:3], arguments.device, title, arguments.precision
            )
        for number in range(WARM_UP + arguments.repetitions):
            for name in names[:: -1 if number % 2 else 1]:
                took, probabilities = processes[name].call(predict, images)
                if number >= WARM_UP:
                    seconds[name].append(took)
                found[name] = probabilities
    print(
        f"{arguments.config.stem}, {arguments.batch_size} images of {arguments.size}x{arguments.size}, "
        f"{arguments.precision}, {arguments.repetitions} rounds"
    )
    first, rows = names[0], {}
    for name in names:
        rates = [len(images) / one for one in seconds[name]]
        ratios = [base / one for base, one in zip(seconds[first], seconds[name], strict=True)]
        backend = find_backend(name)
        rows[name] = {
            "framework": f"{backend.title} {backend.version()}",
            "device": devices[name],
            "images_per_second": statistics.median(rates),
            "rates": rates,
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "difference": float(np.abs(found[name] - found[first]).max()),
        }
        print(
            f"{name:<10}{rows[name]['images_per_second']:8.1f} images/s "
            f"({min(rates):.1f} to {max(rates):.1f})  "
            f"{rows[name]['ratio']:5.2f} of {first} ({min(ratios):.2f} to {max(ratios):.2f})  "
            f"{devices[name]}, differs by {rows[name]['difference']:.1e}"
        )
    return rows


def begin(
    implementation: Implementation,
    configuration: Configuration,
    size: tuple[int, int],
    device: str,
    title: str,
    precision: Precision,
) -> str:
    """Compile the network in the backend's process; return the device."""
    plan, settings = lower(configuration.network, *size), configuration.training
    chosen = choose_device(device, implementation.list_devices(), title)
    model = implementation.compile(plan, settings.rules(), chosen, precision)
    model.load_state(initial_state(plan, settings.rules(), settings.seed))
    _opened["model"] = model
    return chosen


def predict(implementation: Implementation, images: NDArray[np.float32]) -> tuple[float, NDArray[Any]]:
    """Return the seconds of one batch, and the probabilities."""
    del implementation
    began = time.perf_counter()
    probabilities = _opened["model"].predict(images)
    return time.perf_counter() - began, probabilities


if __name__ == "__main__":
    sys.exit(main())
