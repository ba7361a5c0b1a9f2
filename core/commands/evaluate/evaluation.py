"""The command `evaluate`: score each model in its backend's process, then show and write the scores."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from core.backend.process import BackendProcess
from core.backend.registry import require_backend
from core.base.packages import REPORT, require
from core.base.standard_streams import visible
from core.commands.shared import terminal
from core.commands.shared.frameworks import model_of, remark
from core.commands.shared.options import check_at_least_one, given_thresholds
from core.commands.shared.outputs import Input, claimed_reports, model
from core.commands.shared.statuses import Status
from core.commands.shared.terminal import Terminal
from core.commands.shared.training_console import ConsoleWatcher
from core.files.atomic import write_text
from core.prediction.predictor_process import BeginPrediction, RemotePredictor
from core.prediction.trained_models import Member, find_members, has_existence
from core.scoring.evaluation_record import Evaluation, GroupScores
from core.scoring.groups import FEW, Labels
from core.scoring.intervals import Interval
from core.scoring.views import PLAIN, shown
from core.tasks.backend_choice import choose_predictor
from core.tasks.evaluation import EvaluatedModel, evaluate
from core.tasks.groups import group_labels
from core.tasks.predictions import choose_settings, remark_on_folds
from data.hdf5.store import Store
from data.radiographs.resize import resize_image


def run(arguments: argparse.Namespace) -> Status:
    """Evaluate as the command line says."""
    check_at_least_one(arguments, "batch_size")
    names, note = _backends(arguments)
    if arguments.report is not None:
        require(REPORT, "--report")
    reports = {"--json": arguments.json, "--report": arguments.report}
    folders = [folder for name in names for some in _models(arguments, name) for folder in some]
    inputs = [Input("the data file", Path(arguments.data)), *map(model, folders)]
    if arguments.groups is not None:
        inputs.append(Input("the table of groups", arguments.groups))
    with claimed_reports(reports, inputs, overwrite=arguments.overwrite):
        console = terminal.console(*reports.values(), soft_wrap=True)
        if note:
            console.print(note)
        _evaluate_all(console, arguments, names)
    return Status.DONE


def _backends(arguments: argparse.Namespace) -> tuple[list[str], str]:
    """Return the backends that predict, and a note if the toolkit chose the backend, else ""."""
    if arguments.framework is not None:
        names = list(dict.fromkeys(arguments.framework))
        for name in names:
            require_backend(name)
        return names, ""
    if arguments.model is None:
        arguments.model = [[model_of(None)]]
    members = [one for folders in arguments.model for one in find_members([*map(Path, folders)])]
    backend = choose_predictor(members, arguments.device)
    return [backend.name], remark(backend)


def _evaluate_all(console: Terminal, arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Score every model, show the table and write the requested files."""
    found: list[Evaluation] = []
    with Store.open(Path(arguments.data)) as store:
        labels = group_labels(store, arguments.groups)
        wanted = [(name, folders) for name in names for folders in _models(arguments, name)]
        opened = [(name, folders, find_members(folders)) for name, folders in wanted]
        for name, folders, members in opened:
            head = has_existence(members)
            decision = choose_settings(
                folders, given_thresholds(arguments), arguments.tta, arguments.scales, head=head
            )
            for note in filter(None, (remark_on_folds(folders, members), *decision.remarks)):
                console.print(visible(note))
            compared = frozenset(case.row.id for case in found[0].cases) if found else frozenset()
            subject = EvaluatedModel(require_backend(name), folders, members, decision)
            found.append(_evaluate(console, arguments, store, subject, compared, labels))
    _print(console, arguments, found)
    if arguments.json is not None:
        content = [evaluation.as_json() for evaluation in found]
        written = content[0] if len(content) == 1 else content
        write_text(arguments.json, json.dumps(written, indent=1, allow_nan=False) + "\n")
    if arguments.report is not None:
        from core.report import write_report  # imports matplotlib and Jinja2, which only a report needs

        write_report(arguments.report, found)
        console.print(visible(f"Written: {arguments.report}"))


def _models(arguments: argparse.Namespace, name: str) -> list[list[Path]]:
    if arguments.model is None:
        return [[model_of(name)]]
    return [[Path(folder) for folder in folders] for folders in arguments.model]


def _evaluate(
    console: Console,
    arguments: argparse.Namespace,
    store: Store,
    subject: EvaluatedModel,
    compared: frozenset[str],
    labels: Labels,
) -> Evaluation:
    with BackendProcess(subject.backend.name) as process:

        def open_models(some: Sequence[Member]) -> tuple[BeginPrediction, str]:
            predictor = RemotePredictor(
                process,
                subject.backend.title,
                some,
                arguments.device,
                views=subject.settings.views,
                resize=resize_image,
            )
            return predictor.begin, predictor.device

        return evaluate(
            ConsoleWatcher(console),
            store,
            subject,
            open_models,
            data=str(arguments.data),
            split=arguments.split,
            batch_size=arguments.batch_size,
            also=compared,
            labels=labels,
        )


def _print(console: Terminal, arguments: argparse.Namespace, found: Sequence[Evaluation]) -> None:
    first = found[0].summary
    which = "held-out images" if arguments.split == "validation" else "images, held out or not"
    counts = [evaluation.summary for evaluation in found]
    differ = len({(one.images, one.positives) for one in counts}) > 1
    title = f"{first.images} {which}, {first.positives} positive"
    if differ:
        title = f"other {which} for each model; their scores do not compare"
    table = Table(
        "",
        *(visible(evaluation.name) for evaluation in found),
        title=visible(f"{arguments.data}: {title}"),
        caption="in brackets: 95 % confidence intervals",
    )
    if differ:
        table.add_row("images, positive", *(f"{one.images}, {one.positives}" for one in counts))
    for label, values in _lines(found):
        table.add_row(label, *map(visible, values))
    console.result(table)
    for evaluation in found:
        for division, groups in itertools.groupby(evaluation.groups, lambda group: group.division):
            console.result(_groups(evaluation.name, division, [*groups]))


def _groups(name: str, division: str, groups: Sequence[GroupScores]) -> Table:
    """Return the table of the groups of a division. It fits into 80 columns."""
    table = Table(
        *("", "images, positive", "Dice", "on positives"),
        *(Column(word, min_width=len(word)) for word in ("sensitivity", "specificity")),
        title=visible(f"{name}: by {division}"),
    )
    if any(group.small for group in groups):
        table.caption = f"* fewer than {FEW} positive or {FEW} negative images: hardly anything can be said"
    for group in groups:
        scores, between = group.scores, group.scores.intervals
        table.add_row(
            visible(f"{group.name}{' *' if group.small else ''}"),
            *(f"{scores.images}, {scores.positives}", f"{scores.dice:.4f}{_range(between.dice)}"),
            _number(scores.dice_positive, between.dice_positive),
            _number(scores.sensitivity, between.sensitivity),
            _number(scores.specificity, between.specificity),
        )
    return table


def _lines(found: Sequence[Evaluation]) -> list[tuple[str, list[str]]]:
    """Return the rows of the table: a label, and one cell per evaluation."""
    lines: dict[str, list[str]] = {}
    any_scales = any(evaluation.origin.scales != PLAIN.scales for evaluation in found)
    any_head = any(evaluation.summary.auroc_head is not None for evaluation in found)
    for evaluation in found:
        scores, origin = evaluation.summary, evaluation.origin
        between = scores.intervals
        of_images, of_pixels = evaluation.image_calibration, evaluation.pixel_calibration
        cells = {
            "Dice (all-empty floor)": f"{scores.dice:.4f} ({scores.dice_all_empty:.4f})"
            + _range(between.dice),
            "Dice on positives": _number(scores.dice_positive, between.dice_positive),
            "NSD on positives": _number(scores.nsd, between.nsd),
            "IoU, on positives": f"{scores.iou:.4f}, {_number(scores.iou_positive)}",
            "AUROC of existence": _number(scores.auroc, between.auroc),
            **(
                {"AUROC of the existence head": _number(scores.auroc_head, between.auroc_head)}
                if any_head
                else {}
            ),
            "sensitivity": _number(scores.sensitivity, between.sensitivity),
            "specificity": _number(scores.specificity, between.specificity),
            "PPV": _number(scores.ppv, between.ppv),
            "NPV": _number(scores.npv, between.npv),
            "TP, FP, FN, TN": f"{scores.tp}, {scores.fp}, {scores.fn}, {scores.tn}",
            "calibration error, images": f"{of_images.ece:.4f} (Brier {of_images.brier:.4f})",
            "calibration error, pixels": f"{of_pixels.ece:.4f} (Brier {of_pixels.brier:.4f})",
            "thresholds": f"{scores.thresholds} ({origin.thresholds})",
            "checkpoint": ", ".join(f"{one.checkpoint} of epoch {one.epoch}" for one in origin.members),
            "mirror images": "yes" if origin.flip else "no",
            **({"scales": shown(origin.scales)} if any_scales else {}),
            "images/s": f"{origin.images_per_second:.1f} ({origin.device})",
        }
        for label, cell in cells.items():
            lines.setdefault(label, []).append(cell)
    return list(lines.items())


def _number(value: float | None, interval: Interval | None = None) -> str:
    return "-" if value is None else f"{value:.4f}{_range(interval)}"


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.lower:.4f}, {interval.upper:.4f}]"
