"""What `train` does, apart from its options: joins data, backend, training loop, console and logs."""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from core.checkpoint import Checkpoint, Progress, check_continuation, load_checkpoint
from core.commands.console import TrainingConsole, print_network
from core.commands.held_out import facts_of, split_of
from core.commands.tuning_run import tune_trained
from core.configuration import Configuration, load_configuration, parse_configuration
from core.devices import choose_device
from core.errors import UserError
from core.files import explained, set_aside, write_bytes
from core.logs import TensorBoardLog
from core.lowering import lower
from core.registry import load_backend, require_backend
from core.state import initial_state
from core.thresholds import FILE as THRESHOLDS
from core.training import BEST, LAST, Outcome, Trainer
from data.loader import Loader
from data.splits import Split
from data.store import Store

DEFAULT_CONFIGURATION = Path("configs/fcn.yaml")


def run(arguments: argparse.Namespace) -> int:
    """Train as the command line says."""
    require_backend(arguments.framework)  # before files are looked for: a mistyped name is answered at once
    console = Console(highlight=False, markup=False, soft_wrap=True)
    folder = Path(arguments.out) / f"{arguments.framework}_model"
    logs = Path(arguments.out) / f"{arguments.framework}_logs"
    source = _resumed_folder(arguments.resume, folder)
    checkpoint = None if source is None else load_checkpoint(source / LAST)
    configuration = _configuration(arguments, checkpoint)
    with Store.open(Path(arguments.data)) as store:
        facts = facts_of(store)
        if checkpoint is not None:
            check_continuation(checkpoint, configuration, facts)
        plan = lower(configuration.network, store.height, store.width)
        backend, implementation = load_backend(arguments.framework)
        device = choose_device(arguments.device, implementation.list_devices(), backend.title)
        settings = configuration.training
        rules = settings.rules()
        model = implementation.compile(plan, rules, device, settings.precision)
        model.load_state(
            initial_state(plan, rules, settings.seed) if checkpoint is None else checkpoint.arrays
        )
        split = split_of(store, settings)
        print_network(console, plan)
        console.print(f"backend: {backend.title} {backend.version()}, device: {device}")
        console.print(_describe_data(arguments.data, store, split))
        _prepare_folders(console, folder, logs, source)
        progress = Progress() if checkpoint is None else checkpoint.progress
        log = TensorBoardLog(logs, len(progress.history), settings.threshold)
        with _interruptible() as interrupted, TrainingConsole(console, settings.epochs) as shown:
            trainer = Trainer(
                model=model,
                plan=plan,
                configuration=configuration,
                data=facts,
                training=Loader(store, split.training, settings.batch_size, seed=settings.seed),
                validation=Loader(store, split.validation, settings.batch_size)
                if len(split.validation)
                else None,
                folder=folder,
                observers=(shown, log),
                interrupted=interrupted,
                progress=progress,
            )
            try:
                outcome = trainer.run()
            finally:
                log.close()

        def tune() -> None:
            tune_trained(console, store, folder, implementation, device, settings.batch_size)

        return _conclude(console, arguments, trainer, outcome, tune)


def _resumed_folder(resume: str | None, own: Path) -> Path | None:
    """The folder whose checkpoint is continued: `--resume` alone means the run's own."""
    return None if resume is None else own if resume == "" else Path(resume)


def _configuration(arguments: argparse.Namespace, checkpoint: Checkpoint | None) -> Configuration:
    """The file's settings, or the checkpoint's when resuming without --config; then the options."""
    options = {
        "training.epochs": arguments.epochs,
        "training.batch_size": arguments.batch_size,
        "training.optimizer.learning_rate": arguments.learning_rate,
        "training.seed": arguments.seed,
    }
    overrides = [*arguments.set, *(f"{key}={value}" for key, value in options.items() if value is not None)]
    if checkpoint is not None and arguments.config is None:
        content = checkpoint.configuration.model_dump(mode="json")
        return parse_configuration(content, overrides, source="command line")
    return load_configuration(Path(arguments.config or DEFAULT_CONFIGURATION), overrides)


def _describe_data(path: str, store: Store, split: Split) -> str:
    positives = int(store.positive.sum())
    held_out = len(split.validation)
    share = f"{len(split.training)} to train, {held_out} held out"
    if not held_out:
        share = "all to train; none is held out, so the scores below are of the training images"
    return (
        f"data: {path}, {store.count} images of {store.height}x{store.width}, {positives} positive; {share}"
    )


def _prepare_folders(console: Console, folder: Path, logs: Path, source: Path | None) -> None:
    """Keep an earlier run's folders under another name; bring along what is resumed from elsewhere."""
    if source is None or source.resolve() != folder.resolve():
        for path in (folder, logs):
            if (kept := set_aside(path)) is not None:
                console.print(f"{path} holds an earlier run; it is kept as {kept}")
    with explained(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (LAST, BEST):
            if source is not None and not (folder / name).exists() and (source / name).exists():
                write_bytes(folder / name, (source / name).read_bytes())


@contextmanager
def _interruptible() -> Iterator:  # type: ignore[type-arg]
    """Turn the first Ctrl-C (or SIGTERM) into a question that the loop asks; a second one is an exception."""
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        del number, frame
        if asked:
            raise KeyboardInterrupt
        asked = True

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _conclude(
    console: Console,
    arguments: argparse.Namespace,
    trainer: Trainer,
    outcome: Outcome,
    tune: Callable[[], None],
) -> int:
    done = len(outcome.progress.history)
    if outcome.reason == "interrupted":
        where = f"epoch {done + 1}, after {outcome.progress.batch} of {trainer.training.batches} batches"
        console.print(f"Interrupted in {where}; the checkpoint is {trainer.folder / LAST}")
        out = [] if arguments.out == "." else ["--out", arguments.out]
        words = ["python", "run.py", "-f", arguments.framework, "--data", arguments.data, *out, "--resume"]
        console.print(f"Go on with: {shlex.join(words)}")
        return 130
    if outcome.reason == "early stop":
        patience = trainer.configuration.training.early_stop.patience
        console.print(f"Stopped after epoch {done}: no improvement for {patience} epochs")
    evaluation = trainer.finish()
    if evaluation is None:
        raise UserError("no epoch was finished, so there is no model to export")
    scores = evaluation.scores
    of_positives = "-" if scores.dice_positive is None else f"{scores.dice_positive:.4f}"
    console.print(
        f"Best model: Dice {scores.dice:.4f} (all-empty floor {scores.dice_all_empty:.4f}), "
        f"Dice on positives {of_positives}, over {scores.images} images with {scores.positives} positive"
    )
    tune()
    names = [BEST, LAST, "export/", "history.json", "predictions.png", THRESHOLDS]
    written = ", ".join(name for name in names if (trainer.folder / name).exists())
    console.print(f"Written: {trainer.folder}/ ({written}) and logs")
    return 0


__all__: Sequence[str] = ["run"]
