#!/usr/bin/env python
"""Measure a training step, and the same network written by hand and with Keras' `fit`.

    python benchmarks/training.py [-f tf -f mxnet ...] [--network NAME ...] [--batch-size 8 ...]
                                  [--size 384 ...] [--precision float32 ...] [--steps 6 | --seconds S]
                                  [--repetitions 7] [--storage float32 | --data FILE ...]
                                  [--device cpu] [--within S] [--against FOLDER] [--json FILE]

The contenders for each framework are:

    ours      `run.py`'s own loop: batches shuffled and read from an HDF5 file, console, TensorBoard log
    by hand   benchmarks/by_hand: an expert's loop over batches that are in memory
    keras     for tf: Keras 3 on TensorFlow, `compile` and `fit` (networks "fcn" and "unet" only)
    before    with --against: `ours` of another checkout of this project, such as an earlier commit's

All combinations of the options are measured, the values named first before the others. Each contender is one
process for all of them, or a new one after a failure. They take turns of a few steps (`paired_timings.py`).
The script prints images/s, the ratios of the rounds to `by hand` of the same framework and to the first
framework's `ours`, and the peak memory of the process; on a GPU also the peak of its arrays there and the
share of the time that the card is busy. For `ours` it also prints which share of the time is spent waiting
for the next batch, and which outside of the framework (both should be 0). Augmentation, sampling, clipping
and weight decay are off: the loops by hand have none. The loss is BCE and soft Dice, as theirs.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  the line above finds the project
from by_hand.networks import IN_KERAS, NETWORKS  # noqa: E402
from card import CardWatch, memory_counter  # noqa: E402
from noise import write_noise  # noqa: E402
from paired_timings import Contender, Seat, Turn, ratios, shown, spread, take_turns  # noqa: E402

from core.files.atomic import write_text  # noqa: E402
from data.hdf5.store import Store  # noqa: E402

BY_HAND = {"tf": "tensorflow", "mxnet": "mxnet", "torch": "torch", "jax": "jax"}
PLAIN = (
    "training.sampling=null",
    "training.augmentation={}",
    "training.clip_norm=null",
    "training.loss={bce: 1.0, dice: 1.0}",
    "training.optimizer={name: adam, learning_rate: 1.0e-3}",
    "training.schedule={name: constant}",
    "network.dropout=0.0",
)
IMAGES = 64  # of the file
WARM_UP = 2  # rounds that do not count
MOST_STEPS = 2000  # of a turn of --seconds


@dataclass(frozen=True)
class Setting:
    """What is trained."""

    network: str
    path: Path
    batch_size: int
    precision: str

    @property
    def size(self) -> int:
        """Rows and columns of the images."""
        with Store.open(self.path) as store:
            return store.height


def main() -> int:
    """Measure and print; return 1 if a contender failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    several = {"action": "append", "help": "may be repeated"}
    parser.add_argument("-f", "--framework", metavar="NAME", **several)
    parser.add_argument("--network", choices=tuple(NETWORKS), **several)
    parser.add_argument("--batch-size", type=int, metavar="N", **several)
    parser.add_argument(
        "--size", type=int, action="append", metavar="N", help="rows and columns; may be repeated"
    )
    parser.add_argument("--steps", type=int, default=6, help="of a turn")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="a turn has as many steps as fill S seconds, at least --steps",
    )
    parser.add_argument("--repetitions", type=int, default=7, help="rounds that count")
    parser.add_argument("--storage", choices=("float32", "uint8"), default="float32", help="of the file")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="FILE",
        help="square images in place of noise; may be repeated",
    )
    parser.add_argument("--device", default="cpu", metavar="cpu|gpu")
    parser.add_argument(
        "--precision",
        action="append",
        choices=("float32", "tf32", "mixed_bfloat16", "mixed_float16"),
        help="of ours; may be repeated",
    )
    parser.add_argument(
        "--same-precision", action="store_true", help="the loops by hand have it too, or are left out"
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout to compare ours with")
    parser.add_argument("--only-ours", action="store_true", help="leave out the loops by hand, and Keras")
    parser.add_argument("--within", type=float, metavar="S", help="begin with no setting after S seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    began, record, seats = time.monotonic(), [], Seats()
    with (
        tempfile.TemporaryDirectory(prefix="pneumoseg-benchmark-") as name,
        CardWatch(arguments.device) as watch,
    ):
        files = arguments.data or [Path(name) / f"noise{size}.h5" for size in arguments.size or [384]]
        for path, size in zip(files, arguments.size or [384], strict=False):
            if arguments.data is None:
                write_noise(path, size, arguments.storage, IMAGES)
        for setting in by_importance(
            arguments.network or ["fcn"],
            files,
            arguments.batch_size or [8],
            arguments.precision or ["float32"],
        ):
            if arguments.within is not None and time.monotonic() - began > arguments.within:
                break
            record += measure(arguments, setting, seats, watch)
            if arguments.json:
                write_text(arguments.json, json.dumps(record, indent=1) + "\n")
        seats.close()
    return int(any("error" in one for one in record))


def by_importance(*choices: Sequence[Any]) -> list[Setting]:
    """Return all settings, the most important first: each choice begins with its most important value."""
    places = itertools.product(*(range(len(choice)) for choice in choices))
    return [
        Setting(*(choice[place] for choice, place in zip(choices, of_one, strict=True)))
        for of_one in sorted(places, key=sum)
    ]


class Seats:
    """The process of each contender, which runs all settings, or a new one after a failure."""

    def __init__(self) -> None:
        self._seats: dict[tuple[str, str], Seat] = {}

    def contender(self, key: tuple[str, str], function: Any, *arguments: Any) -> Contender:
        """Return the contender with this key (framework, kind), in its process."""
        seat = self._seats[key] = self._seats.get(key) or Seat()
        return Contender(", ".join(key), function, *arguments, seat=seat)

    def close(self) -> None:
        """End all processes."""
        for seat in self._seats.values():
            seat.close()
        self._seats.clear()


def measure(
    arguments: argparse.Namespace, setting: Setting, seats: Seats, watch: CardWatch
) -> list[dict[str, Any]]:
    """Measure all contenders at one setting; if one fails, the record says why and has no other."""
    names = list(dict.fromkeys(arguments.framework or ["tf", "mxnet"]))
    facts = {
        "network": setting.network,
        "batch_size": setting.batch_size,
        "size": setting.size,
        "device": arguments.device,
    }
    try:
        contenders, steps = take_all_turns(arguments, setting, seats, names)
    except RuntimeError as failure:
        seats.close()
        print(f"{setting.network}, {setting.size}, {setting.batch_size}, {setting.precision}: {failure}")
        name, _, kind = str(failure).partition(":")[0].partition(", ")
        one = {"framework": name, "contender": kind, **facts, "precision": setting.precision}
        return [{**one, "error": str(failure), "blocks": []}]
    print(
        f"{setting.network}, {setting.size}x{setting.size}, batches of {setting.batch_size}, "
        f"ours in {setting.precision}, "
        f"{arguments.storage if arguments.data is None else arguments.data} file, "
        f"{arguments.repetitions} rounds of {steps} steps; median (least, greatest)"
    )
    rates = {
        key: [setting.batch_size * block.steps / block.seconds for block in contender.blocks]
        for key, contender in contenders.items()
    }
    record = []
    for (name, kind), contender in contenders.items():
        busy = sum(block.processor for block in contender.blocks) / sum(b.seconds for b in contender.blocks)
        card = watch.busy((block.begun, block.begun + block.seconds) for block in contender.blocks)
        line = f"  {name:<6}{kind:<8}{shown(spread(rates[name, kind])):>21} images/s "
        line += f"{contender.peak_memory / 1e6:6.0f} MB {busy:5.2f} cores"
        if contender.device_memory is not None:
            line += f", device {contender.device_memory / 1e6:.0f} MB"
        if card is not None:
            line += f", card busy {card:.0%}"
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
                **facts,
                "precision": setting.precision
                if kind in ("ours", "before")
                else by_hand_precision(arguments, name, setting),
                "peak_memory": contender.peak_memory,
                "device_memory": contender.device_memory,
                "card_busy": card,
                **contender.facts,
                "blocks": [asdict(block) for block in contender.blocks],
            }
        )
    return record


def by_hand_precision(arguments: argparse.Namespace, name: str, setting: Setting) -> str:
    """Return the precision of a loop by hand."""
    return setting.precision if arguments.same_precision and name != "mxnet" else "float32"


def take_all_turns(
    arguments: argparse.Namespace, setting: Setting, seats: Seats, names: Sequence[str]
) -> tuple[dict[tuple[str, str], Contender], int]:
    """Let all contenders take their turns; return them, and the steps of a turn.

    Raises:
        RuntimeError: A contender failed.
    """
    contenders: dict[tuple[str, str], Contender] = {}

    def add(name: str, kind: str, function: Any, *given: Any) -> None:
        contenders[name, kind] = seats.contender((name, kind), function, *given)

    steps, rounds = arguments.steps, WARM_UP + arguments.repetitions
    most = steps * rounds if arguments.seconds is None else MOST_STEPS * rounds
    for name in names:
        run = (name, setting.network, setting.path, setting.batch_size, setting.size, arguments.device)
        run = (*run, setting.precision, most)
        add(name, "ours", ours, *run)
        if arguments.against:
            add(name, "before", ours_of, arguments.against.resolve(), *run)
        if arguments.only_ours:
            continue
        hand = (setting.network, setting.batch_size, setting.size, arguments.device)
        hand = (*hand, by_hand_precision(arguments, name, setting))
        if name in BY_HAND and not (arguments.same_precision and hand[-1] != setting.precision):
            add(name, "by hand", by_hand, BY_HAND[name], *hand)
        if name == "tf" and setting.network in IN_KERAS:
            add(name, "keras", by_hand, "keras", *hand)
    everyone = list(contenders.values())
    if arguments.seconds is None:
        take_turns(everyone, steps, arguments.repetitions, WARM_UP)
        return contenders, steps
    for _ in range(WARM_UP):
        fastest = min(one.take_turn(steps, counts=False).seconds for one in everyone)
    steps = min(max(steps, math.ceil(steps * arguments.seconds / fastest)), MOST_STEPS)
    take_turns(everyone, steps, arguments.repetitions, warm_up=0)
    return contenders, steps


def waits(contender: Contender) -> str:
    """Return as text the shares of the time spent outside of the framework."""
    seconds = sum(block.seconds for block in contender.blocks)
    waiting = sum(block.waiting for block in contender.blocks) / seconds
    inside = sum(block.inside for block in contender.blocks) / seconds
    return f"; waits for data {waiting:.2%}, host between steps {1 - waiting - inside:.2%}"


def by_hand(
    turn: Turn, module: str, network: str, batch: int, size: int, device: str, precision: str
) -> None:
    """Run a loop of `by_hand`, in its process; memory of a card that it does not need is left."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"], os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "true", "false"
    imported = importlib.import_module(f"by_hand.{module}")
    turn.device_memory = memory_counter({"tensorflow": "tf", "keras": "tf"}.get(module, module), device)
    imported.train(turn, network, batch, size, device, precision)


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
    from core.base.system import return_freed_memory
    from core.commands.shared.training_console import TrainingConsole
    from core.experiment.checkpoint import DataFacts
    from core.experiment.configuration import load_configuration
    from core.network.lowering import lower
    from core.tasks.training_batches import training_batches
    from core.training.loop import Trainer
    from core.training.observers import Observer
    from core.training.tensorboard import TensorBoardLog

    overrides = [*PLAIN, f"training.batch_size={batch_size}"]
    overrides += ["network.blocks.9.dropout=0.0"] if network == "unet" else []
    configuration = load_configuration(ROOT / f"configs/{network}.yaml", overrides)
    settings = configuration.training
    plan, rules = lower(configuration.network, size, size), settings.rules()
    backend, implementation = load_backend(name)
    chosen = choose_device(device, implementation.list_devices(), backend.title)
    turn.device_memory = memory_counter(name, chosen)
    model = implementation.compile(plan, rules, chosen, precision)  # type: ignore[arg-type]
    model.load_state(initial_state(plan, rules, settings.seed))
    return_freed_memory()
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
        loader = loader if chosen == "cpu" else loader.in_bytes()  # as `run.py` trains
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
