#!/usr/bin/env python
"""Measure a training step, and the same network written by hand and with Keras' `fit`.

    python benchmarks/training.py [-f tf -f mxnet ...] [--network NAME] [--batch-size 8 ...]
                                  [--size 384] [--steps 6] [--repetitions 7] [--storage float32]
                                  [--device cpu] [--against FOLDER] [--json FILE]

The contenders for each framework are:

    ours      `run.py`'s own loop: batches shuffled and read from an HDF5 file, console, TensorBoard log
    by hand   benchmarks/by_hand: an expert's loop over batches that are in memory
    keras     for tf: Keras 3 on TensorFlow, `compile` and `fit` (networks "fcn" and "unet" only)
    before    with --against: `ours` of another checkout of this project, such as an earlier commit's

Each is a process; they take turns of a few steps (`paired_timings.py`). The script prints images/s, the
ratios of the rounds to `by hand` of the same framework and to the first framework's `ours`, and the peak
memory of the process. For `ours` it also prints which share of the time is spent waiting for the next batch,
and which outside of the framework (both should be 0). Augmentation, sampling, clipping and weight decay are
off: the loops by hand have none.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the line above finds the project
from by_hand.networks import IN_KERAS, NETWORKS  # noqa: E402
from noise import write_noise  # noqa: E402
from paired_timings import Contender, Turn, ratios, shown, spread, take_turns  # noqa: E402

BY_HAND = {"tf": "tensorflow", "mxnet": "mxnet", "torch": "torch", "jax": "jax"}
PLAIN = (
    "training.sampling=null",
    "training.augmentation={}",
    "training.clip_norm=null",
    "training.optimizer={name: adam, learning_rate: 1.0e-3}",
    "training.schedule={name: constant}",
    "network.dropout=0.0",
)
IMAGES = 64  # of the file
WARM_UP = 2  # rounds that do not count


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-f", "--framework", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--network", choices=tuple(NETWORKS), default="fcn")
    parser.add_argument("--batch-size", type=int, action="append", metavar="N", help="may be repeated")
    parser.add_argument("--size", type=int, default=384, help="rows and columns of the images")
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument("--repetitions", type=int, default=7, help="rounds that count")
    parser.add_argument("--storage", choices=("float32", "uint8"), default="float32", help="of the file")
    parser.add_argument("--device", default="cpu", metavar="cpu|gpu")
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "mixed_bfloat16"), help="of ours"
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout to compare ours with")
    parser.add_argument("--only-ours", action="store_true", help="leave out the loops by hand, and Keras")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    record = []
    with tempfile.TemporaryDirectory(prefix="pneumoseg-benchmark-") as name:
        path = Path(name) / "noise.h5"
        write_noise(path, arguments.size, arguments.storage, IMAGES)
        for batch_size in arguments.batch_size or [8]:
            record += measure(arguments, batch_size, path)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def measure(arguments: argparse.Namespace, batch_size: int, path: Path) -> list[dict[str, Any]]:
    """Measure all contenders at one batch size."""
    names = list(dict.fromkeys(arguments.framework or ["tf", "mxnet"]))
    contenders: dict[tuple[str, str], Contender] = {}
    for name in names:
        run = (
            name,
            arguments.network,
            path,
            batch_size,
            arguments.size,
            arguments.device,
            arguments.precision,
            arguments.steps * (WARM_UP + arguments.repetitions),
        )
        contenders[name, "ours"] = Contender(f"{name}, ours", ours, *run)
        if arguments.against:
            root = arguments.against.resolve()
            contenders[name, "before"] = Contender(f"{name}, before", ours_of, root, *run)
        if arguments.only_ours:
            continue
        hand = (arguments.network, batch_size, arguments.size, arguments.device)
        if name in BY_HAND:
            contenders[name, "by hand"] = Contender(f"{name}, by hand", by_hand, BY_HAND[name], *hand)
        if name == "tf" and arguments.network in IN_KERAS:
            contenders[name, "keras"] = Contender("keras", by_hand, "keras", *hand)
    take_turns(list(contenders.values()), arguments.steps, arguments.repetitions, WARM_UP)
    print(
        f"{arguments.network}, {arguments.size}x{arguments.size}, batches of {batch_size}, "
        f"ours in {arguments.precision}, "
        f"{arguments.storage} file, {arguments.repetitions} rounds of {arguments.steps} steps; "
        "median (least, greatest)"
    )
    rates = {
        key: [batch_size * block.steps / block.seconds for block in contender.blocks]
        for key, contender in contenders.items()
    }
    record = []
    for (name, kind), contender in contenders.items():
        busy = sum(block.processor for block in contender.blocks) / sum(b.seconds for b in contender.blocks)
        line = f"  {name:<6}{kind:<8}{shown(spread(rates[name, kind])):>21} images/s "
        line += f"{contender.peak_memory / 1e6:6.0f} MB {busy:5.2f} cores"
        rival = contenders.get((name, "by hand"))
        if rival is not None and kind != "by hand":
            line += f"; {shown(ratios(rates[name, kind], rates[name, 'by hand']), '.3f')} of by hand, "
            line += f"memory {contender.peak_memory / rival.peak_memory:.2f}"
        if kind == "ours":
            line += waits(contender)
            if (name, "before") in rates:
                line += f"; {shown(ratios(rates[name, 'ours'], rates[name, 'before']), '.3f')} of before"
            if (name, "keras") in rates:
                line += f"; {shown(ratios(rates[name, 'ours'], rates[name, 'keras']))} of keras"
            if name != names[0]:
                line += f"; {shown(ratios(rates[name, 'ours'], rates[names[0], 'ours']))} of {names[0]}"
        print(line, flush=True)
        record.append(
            {
                "framework": name,
                "contender": kind,
                "network": arguments.network,
                "batch_size": batch_size,
                "size": arguments.size,
                "precision": arguments.precision if kind == "ours" else "float32",
                "device": arguments.device,
                "peak_memory": contender.peak_memory,
                **contender.facts,
                "blocks": [asdict(block) for block in contender.blocks],
            }
        )
    return record


def waits(contender: Contender) -> str:
    """Return as text the shares of the time spent outside of the framework."""
    seconds = sum(block.seconds for block in contender.blocks)
    waiting = sum(block.waiting for block in contender.blocks) / seconds
    inside = sum(block.inside for block in contender.blocks) / seconds
    return f"; waits for data {waiting:.2%}, host between steps {1 - waiting - inside:.2%}"


def by_hand(turn: Turn, module: str, *arguments: Any) -> None:
    """Run a loop of `by_hand`, in its process."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    importlib.import_module(f"by_hand.{module}").train(turn, *arguments)


def ours_of(turn: Turn, root: Path, *arguments: Any) -> None:
    """Run `ours` of another checkout, in its process."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("core", "data", "backends")]:
        del sys.modules[name]
    sys.path[:0] = [str(root), str(root / "benchmarks")]
    importlib.import_module("training").ours(turn, *arguments)


def ours(
    turn: Turn,
    name: str,
    network: str,
    path: Path,
    batch_size: int,
    size: int,
    device: str,
    precision: str,
    steps: int,
) -> None:
    """Run `run.py`'s loop, in its process; `steps` is the number of steps of all turns."""
    from rich.console import Console

    from core.backend.devices import choose_device
    from core.backend.registry import load_backend
    from core.backend.state import initial_state
    from core.commands.shared.training_console import TrainingConsole
    from core.experiment.checkpoint import DataFacts
    from core.experiment.configuration import load_configuration
    from core.network.lowering import lower
    from core.tasks.training_batches import training_batches
    from core.training.loop import Trainer
    from core.training.observers import Observer
    from core.training.tensorboard import TensorBoardLog
    from data.hdf5.store import Store

    overrides = [*PLAIN, f"training.batch_size={batch_size}"]
    overrides += ["network.blocks.9.dropout=0.0"] if network == "unet" else []
    configuration = load_configuration(ROOT / f"configs/{network}.yaml", overrides)
    settings = configuration.training
    plan, rules = lower(configuration.network, size, size), settings.rules()
    backend, implementation = load_backend(name)
    chosen = choose_device(device, implementation.list_devices(), backend.title)
    model = implementation.compile(plan, rules, chosen, precision)  # type: ignore[arg-type]
    model.load_state(initial_state(plan, rules, settings.seed))
    watched = Watched(model, turn)

    class Gate(Observer):
        """Observer that reports each step to the turn."""

        def batch_trained(self, loss: float) -> None:
            turn.step_done(lambda: float(watched.newest))

    with (
        Store.open(path) as store,
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
    ):
        # One epoch of the same images again and again. It is long enough for all turns, which end it.
        indices = np.resize(np.arange(store.count), (steps + 1) * batch_size)
        loader = training_batches(store, indices, settings)
        console = Console(file=nowhere, force_terminal=True, highlight=False, markup=False)
        log = TensorBoardLog(Path(folder) / "logs", 0, settings.threshold)
        turn.ready(version=backend.version(), chosen=chosen)
        with TrainingConsole(console, settings.epochs) as shown:
            Trainer(
                model=watched,  # type: ignore[arg-type]
                plan=plan,
                configuration=configuration,
                data=DataFacts(store.count, size, size, int(store.positive.sum())),
                training=WatchedBatches(loader, turn),
                validation=loader,
                folder=Path(folder),
                observers=(shown, log, Gate()),
            ).run()


class Watched:
    """A model whose steps are timed."""

    def __init__(self, model: Any, turn: Turn) -> None:
        self._model, self._turn = model, turn
        self.newest: Any = None

    def train_step(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        loss = self._model.train_step(*arguments)
        self._turn.inside += time.perf_counter() - began
        self.newest = WatchedLoss(loss, self._turn)
        return self.newest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class WatchedLoss:
    """A loss; the time spent waiting for it is measured."""

    def __init__(self, loss: Any, turn: Turn) -> None:
        self._turn = turn
        self._value = functools.cache(lambda: float(loss))

    def __float__(self) -> float:
        began = time.perf_counter()
        value = self._value()
        self._turn.inside += time.perf_counter() - began
        return value


class WatchedBatches:
    """Batches; the time spent waiting for them is measured."""

    def __init__(self, loader: Any, turn: Turn) -> None:
        self._loader, self._turn = loader, turn

    def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Generator[Any, None, None]:
        batches = self._loader.epoch(epoch, start, every)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._turn.waiting += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


if __name__ == "__main__":
    sys.exit(main())
