"""What `predict` shows on the terminal."""

from __future__ import annotations

import argparse

from rich.console import Console

from core.base.standard_streams import visible
from core.commands.predict.loaded_model import LoadedModel
from core.commands.predict.pipeline import FileOutcomes
from core.commands.shared.terminal import Terminal, most_shown
from data.annotations.annotation_file import Annotations
from data.annotations.image_ids import Identities

_MOST_SHOWN = 20  # remarks of each kind; --json has all of them
_MOST_NAMED = 5  # annotations or images without a partner
_LEFT_OUT = ("unreadable", "not listed")  # the kinds of remark that make the exit status 3


def describe(model: LoadedModel, files: int) -> str:
    """Return two lines about the models, the backend, the thresholds and the number of files."""
    several = (
        f"{len(model.members)} models" if len(model.members) > 1 else visible(str(model.members[0].path))
    )
    number = f"{files} DICOM file{'' if files == 1 else 's'}"
    views = f", with {model.views.extras}" if model.views.extras else ""
    if model.decision.followed:
        views += " (as the thresholds were searched)"
    data = model.members[0].checkpoint.data
    contrast = "" if data.clahe is None else f", {data.contrast}"
    return (
        f"{several} on {model.backend.title} {model.backend.version()}, device: {model.device}{views}\n"
        f"thresholds: {model.thresholds} ({model.decision.origin}); {number}{contrast}"
    )


def show_outcomes(console: Terminal, arguments: argparse.Namespace, outcomes: FileOutcomes) -> None:
    """Show the counts, the files with problems, and where the outputs are."""
    predicted = len(outcomes.results)
    speed = f", {predicted / outcomes.seconds:.1f} images/s" if predicted else ""
    console.print(
        f"{predicted} image{'' if predicted == 1 else 's'} predicted: {outcomes.positives} positive, "
        f"{predicted - outcomes.positives} negative{speed}"
    )
    refused = [(result.source.name, result.no_segmentation) for result in outcomes.results]
    undrawn = [(result.source.name, result.no_truth) for result in outcomes.results]
    noted = [(result.source.name, result.source.note) for result in outcomes.results]
    most = most_shown(_MOST_SHOWN)
    for title, remarks in (
        (
            "unreadable (its row in the submission says -1, no pneumothorax)",
            [(one.name, one.reason) for one in outcomes.unreadable],
        ),
        ("note", [one for one in noted if one[1]]),
        ("not listed", [(one.name, one.reason) for one in outcomes.not_listed]),
        ("passed over, its id came before", [(one.name, one.image_id) for one in outcomes.duplicates]),
        ("no Segmentation object", [one for one in refused if one[1]]),
        ("truth not drawn", [one for one in undrawn if one[1]]),
        (
            "named otherwise, since another id gives the same file name",
            [
                (source.name, f"its files are called {name}")
                for source, name in (outcomes.renamed if _has_files(arguments) else [])
            ],
        ),
    ):
        tell = console.problem if title.startswith(_LEFT_OUT) else console.print
        for name, reason in remarks[:most]:
            tell(visible(f"{title}: {name}: {reason}"))
        if len(remarks) > most:
            tell(f"{title}: {len(remarks) - most} more")
    made = outcomes.positives - sum(bool(reason) for _, reason in refused)
    written = [f"{arguments.out} ({predicted + len(outcomes.unreadable)} rows)"]
    for path, number, what in (
        (arguments.masks, predicted, "masks"),
        (arguments.overlays, predicted, "pictures"),
        (arguments.dicom_seg, made, "Segmentation objects"),
    ):
        if path is not None:
            written.append(f"{path}/ ({number} {what})")
    written += [str(path) for path in (arguments.probabilities, arguments.json) if path is not None]
    console.print(visible(f"Written: {', '.join(written)}"))


def _has_files(arguments: argparse.Namespace) -> bool:
    """Return whether each image has output files of its own."""
    return any((arguments.masks, arguments.overlays, arguments.dicom_seg))


def show_annotation_problems(
    console: Console, annotations: Annotations, identities: Identities, outcomes: FileOutcomes
) -> None:
    """Show annotation rows that were corrected or ignored, and ids that only one side has."""
    sources = [*(result.source for result in outcomes.results), *outcomes.unreadable, *outcomes.duplicates]
    chosen = {source.name: identities.choose(source.file, source.uid) for source in sources}
    lacking = [
        result.source.name
        for result in outcomes.results
        if chosen[result.source.name] not in annotations.rows_of
    ]
    used, most = set(chosen.values()), most_shown(_MOST_NAMED)
    unused = [one for one in annotations.rows_of if one not in used]
    for title, places in {
        **annotations.passed_over,
        "image without annotation": lacking,
        "annotation without image": unused,
    }.items():
        if places:
            more = f" and {len(places) - most:,} more" if len(places) > most else ""
            console.print(visible(f"{title}: {', '.join(map(str, places[:most]))}{more}"))
    if used.isdisjoint(annotations.rows_of) and (near := annotations.explain_near_miss(used)):
        console.print(visible(f"no annotation is of any image. {near}"))
