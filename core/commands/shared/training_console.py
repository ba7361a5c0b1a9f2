"""The progress of a training, an evaluation or a threshold search on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from core.base.errors import UserError
from core.base.standard_streams import visible
from core.commands.shared.progress import bar_of, progress_bar
from core.experiment.checkpoint import EpochRecord
from core.experiment.configuration import Training
from core.experiment.recipe import ConstantSchedule
from core.network.plan import Plan
from core.network.summary import summarise_plan
from core.pictures.radiographs import Sample
from core.tasks.progress import Watcher
from core.training.observers import Observer
from core.training.weight_averaging import WeightAverage


def print_network(console: Console, plan: Plan) -> None:
    """Print the table of blocks with shapes and numbers of parameters."""
    rows = summarise_plan(plan)
    total = sum(row.parameters for row in rows)
    table = Table(title=f"network: {plan.input} in, {rows[-1].output} out, {total:,} parameters")
    table.add_column("block", no_wrap=True)
    table.add_column("operations")
    table.add_column("output", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.name, row.operations, row.output, f"{row.parameters:,}")
    console.print(table)


class ConsoleWatcher(Watcher):
    """A `Watcher` that prints on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(visible(text), soft_wrap=True)

    def network(self, plan: Plan) -> None:
        """Print the table of the network."""
        print_network(self._console, plan)

    @contextlib.contextmanager
    def epochs(self, settings: Training) -> Iterator[Observer]:
        """Show a bar, and a line per epoch, with the learning rate if it changes."""
        changes = settings.schedule != ConstantSchedule()
        with TrainingConsole(self._console, settings.epochs, show_rate=changes) as shown:
            yield shown

    @contextlib.contextmanager
    def images(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar."""
        with progress_bar(self._console) as bar:
            task = bar.add_task(visible(title), total=total)
            yield lambda number: bar.update(task, advance=number)


class TrainingConsole(Observer):
    """A live bar for the current epoch, and one line per finished epoch."""

    def __init__(self, console: Console, epochs: int, show_rate: bool = False) -> None:
        self._console, self._epochs, self._show_rate = console, epochs, show_rate
        self._bar = bar_of(
            console,
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            transient=True,
        )
        self._task = self._bar.add_task("", note="", visible=False)

    def __enter__(self) -> TrainingConsole:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def epoch_started(self, epoch: int, done: int, batches: int) -> None:
        """Show an empty bar."""
        description = f"epoch {epoch}/{self._epochs}"
        self._bar.reset(
            self._task, description=description, completed=done, total=batches, note="", visible=True
        )

    def batch_trained(self, loss: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, advance=1, note=f"loss {loss:.4f}")

    def scoring_started(self, batches: int) -> None:
        """Show an empty bar for scoring."""
        self._bar.reset(self._task, description="scoring", completed=0, total=batches, note="", visible=True)

    def batch_scored(self) -> None:
        """Move the bar."""
        self._bar.update(self._task, advance=1)

    def averaging_started(self, batches: int) -> None:
        """Show an empty bar for recomputing the statistics of averaged weights."""
        self._bar.reset(
            self._task, description="averaging", completed=0, total=batches, note="", visible=True
        )

    def averaged(self, average: WeightAverage) -> None:
        """Print whether the average of the best epochs is used."""
        self._bar.update(self._task, visible=False)
        name = average.monitor.replace("_", " ")
        statistics = ", with recomputed statistics" if average.recomputed_statistics else ""
        self._console.print(
            f"Average of epochs {', '.join(map(str, average.epochs))}{statistics}: {name} "
            f"{abs(average.score):.4f}, to beat {abs(average.to_beat):.4f}; "
            f"it is {'' if average.is_better else 'not '}used",
            soft_wrap=True,
        )

    def export_left_out(self, missing: UserError) -> None:
        """Print what the export needs."""
        self._console.print(f"No export was written: {missing}", soft_wrap=True)

    def epoch_ended(self, record: EpochRecord, best: bool, samples: Sequence[Sample]) -> None:
        """Print the epoch's line."""
        del samples
        width = len(str(self._epochs))
        of_positives, auroc = (
            "   -  " if score is None else f"{score:.4f}" for score in (record.dice_positive, record.auroc)
        )
        rate = f"rate {record.learning_rate:.2e}  " if self._show_rate else ""
        self._bar.update(self._task, visible=False)
        self._console.print(
            f"epoch {record.epoch:>{width}}/{self._epochs}  loss {record.loss:.4f}  "
            f"{record.scored_on}: loss {record.validation_loss:.4f}  Dice {record.dice:.4f} "
            f"(all-empty {record.dice_all_empty:.4f})  positives {of_positives}  AUROC {auroc}  "
            f"{rate}{record.images_per_second:.1f} images/s{'  best' if best else ''}{_skipped(record)}",
            soft_wrap=True,
        )


def _skipped(record: EpochRecord) -> str:
    """Return what an epoch's line says of skipped updates; nothing if there were none."""
    if not record.skipped_steps:
        return ""
    updates = "1 update" if record.skipped_steps == 1 else f"{record.skipped_steps} updates"
    return f"  {updates} skipped (overflow), loss scale {record.loss_scale:.10g}"
