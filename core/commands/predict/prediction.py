"""What `predict` does, apart from its options: joins files, backend, answers and outputs.

Images are read by some processes, predicted in this one, and answered (mask at the original size, files of
the image) by others, each a few images ahead of the next: memory does not grow with their number. What is
written appears when all of it is done; before that, and after Ctrl-C, everything is as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from core.backend.contract import Backend
from core.backend.devices import choose_device
from core.backend.registry import load_backend, require_backend
from core.base.errors import UserError
from core.base.packages import require
from core.base.standard_streams import visible
from core.base.system import available_cores
from core.commands.predict.results import Job, Result, Task, conclude, crashed, prepare
from core.commands.shared import outputs, terminal
from core.commands.shared.frameworks import model_of, remark
from core.commands.shared.options import check_at_least_one, given_thresholds
from core.commands.shared.outputs import Input, Output, OutputFile, OutputFolder, claimed
from core.commands.shared.progress import progress_bar
from core.commands.shared.statuses import Status
from core.commands.shared.terminal import Terminal, most_shown
from core.commands.shared.versions import TOOL
from core.files.atomic import replacing
from core.files.checks import is_folder
from core.files.destinations import is_stream
from core.files.names import FileNames, file_name
from core.files.system_errors import explain_os_errors
from core.prediction.trained_models import Member, Predictor, find_members
from core.processes.pool import map_in_order
from core.scoring.thresholds import Thresholds
from core.tasks.backend_choice import choose_predictor
from core.tasks.predictions import PredictionSettings, area_in_mm2, choose_settings, remark_on_folds
from data.annotations import rle
from data.annotations.annotation_file import Annotations, read_annotations
from data.annotations.image_ids import Identities, image_id
from data.hdf5.probability_maps import ProbabilityFile
from data.radiographs import dicom
from data.radiographs.reading import ImageFile, Reading, read_all
from data.submissions.submission_file import write_rows

if TYPE_CHECKING:
    from data.submissions.dicom_segmentation import Algorithm

FORMAT = "pneumoseg-prediction"
FORMAT_VERSION = 1

_MOST_SHOWN = 20  # of each kind of remark; --json has all
_MOST_NAMED = 5  # of what the annotations lack
_LEFT_OUT = ("unreadable", "not listed")  # what makes the exit status 3


@dataclass(frozen=True)
class Model:
    """What predicts.

    Args:
        backend: The framework's descriptor.
        device: Where it computes.
        members: The models.
        decision: Thresholds, and whether mirror images are predicted too.
    """

    backend: Backend
    device: str
    members: Sequence[Member]
    decision: PredictionSettings

    @property
    def thresholds(self) -> Thresholds:
        """What decides."""
        return self.decision.thresholds

    @property
    def flip(self) -> bool:
        """Whether mirror images are predicted too."""
        return self.decision.flip

    @functools.cached_property
    def hashes(self) -> list[str]:
        """SHA-256 of each member's checkpoint file."""
        return [hashlib.sha256(member.path.read_bytes()).hexdigest() for member in self.members]

    def algorithm(self) -> Algorithm:
        """How a Segmentation object names it."""
        from data.submissions.dicom_segmentation import (
            Algorithm,  # half a second, for those who want such objects
        )

        together = hashlib.sha256("".join(self.hashes).encode()).hexdigest()
        parameters = f"{self.thresholds}{', mirror images' if self.flip else ''}"
        return Algorithm(TOOL, importlib.metadata.version(TOOL), together[:16], parameters)


@dataclass
class Account:
    """What became of every file."""

    results: list[Result] = field(default_factory=list)
    unreadable: list[ImageFile] = field(default_factory=list)
    duplicates: list[ImageFile] = field(default_factory=list)
    not_listed: list[ImageFile] = field(default_factory=list)
    renamed: list[tuple[ImageFile, str]] = field(default_factory=list)  # with the name of their files
    seconds: float = 0.0

    @property
    def positives(self) -> int:
        """Images in which something was found."""
        return sum(result.positive for result in self.results)


def run(arguments: argparse.Namespace) -> Status:
    """Predict as the command line says."""
    named = arguments.framework  # looked at before files are: one that is not installed is told at once
    if named is not None:
        require_backend(named)
    folders = arguments.model or [model_of(named)]
    check_at_least_one(arguments, "batch_size", "workers")
    if arguments.dicom_seg:
        require(["highdicom"], "--dicom-seg")
    members = find_members(folders)
    decision = choose_settings(folders, given_thresholds(arguments), arguments.tta)
    files = _find(arguments.images)
    annotations = None
    if arguments.annotations is not None:
        annotations = read_annotations(arguments.annotations, set(map(image_id, files)))
    with claimed(_outputs(arguments), _inputs(arguments, folders), overwrite=arguments.overwrite):
        console = terminal.console(arguments.out, arguments.json, soft_wrap=True)
        chosen = named or choose_predictor(members, arguments.device).name
        backend, implementation = load_backend(chosen)
        if named is None:
            console.print(remark(backend))
        device = choose_device(arguments.device, implementation.list_devices(), backend.title)
        predictor = Predictor(members, implementation, device, flip=decision.flip)
        model = Model(backend, device, members, decision)
        console.print(_describe(model, len(files)))
        for note in filter(None, (remark_on_folds(folders, members), *decision.remarks)):
            console.print(visible(note))
        try:
            account = _predict(console, arguments, files, annotations, model, predictor)
        except KeyboardInterrupt:
            console.problem("Nothing was written.")
            raise
    _show(console, arguments, account)
    if annotations is not None:
        _show_annotations(console, annotations, Identities.of(annotations, files), account)
    left_out = account.unreadable + account.not_listed
    if arguments.strict and left_out:
        what = f"{len(left_out)} of {len(files)} files could not be read"
        raise UserError(f"{what}, which --strict makes an error; everything else was written.")
    return Status.of(left_out)


def _find(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"the images folder {folder} {what}.", "--images names a folder of DICOM files.")
    files = dicom.find(folder)
    if not files:
        raise UserError(f"no DICOM file (.dcm) below {folder}.", "--images names a folder of DICOM files.")
    return files


def _outputs(arguments: argparse.Namespace) -> list[Output]:
    wanted: list[Output | None] = [
        OutputFile("--out", arguments.out),
        arguments.masks and OutputFolder("--masks", arguments.masks, ".png"),
        arguments.overlays and OutputFolder("--overlays", arguments.overlays, ".png"),
        arguments.dicom_seg and OutputFolder("--dicom-seg", arguments.dicom_seg, ".dcm"),
        arguments.probabilities and OutputFile("--probabilities", arguments.probabilities, or_stream=False),
        arguments.json and OutputFile("--json", arguments.json),
    ]
    return [output for output in wanted if output is not None]


def _inputs(arguments: argparse.Namespace, models: Sequence[Path]) -> list[Input]:
    inputs = [outputs.images(arguments.images), *map(outputs.model, models)]
    if arguments.annotations is not None:
        inputs.append(Input("the annotations", arguments.annotations))
    return inputs


def _describe(model: Model, files: int) -> str:
    several = (
        f"{len(model.members)} models" if len(model.members) > 1 else visible(str(model.members[0].path))
    )
    number = f"{files} DICOM file{'' if files == 1 else 's'}"
    mirrored = ", with mirror images" if model.flip else ""
    if model.decision.followed:
        mirrored += " (as the thresholds were searched)"
    return (
        f"{several} on {model.backend.title} {model.backend.version()}, device: {model.device}{mirrored}\n"
        f"thresholds: {model.thresholds} ({model.decision.origin}); {number}"
    )


def _predict(
    console: Console,
    arguments: argparse.Namespace,
    files: Sequence[Path],
    annotations: Annotations | None,
    model: Model,
    predictor: Predictor,
) -> Account:
    """Do the work and write everything."""
    account = Account()
    with contextlib.ExitStack() as stack:
        job = Job(
            thresholds=model.thresholds,
            truth=None if annotations is None else Identities.of(annotations, files),
            masks=_begin_folder(stack, arguments.masks),
            overlays=_begin_folder(stack, arguments.overlays),
            segmentations=_begin_folder(stack, arguments.dicom_seg),
            algorithm=model.algorithm() if arguments.dicom_seg else None,
        )
        maps = _begin_maps(stack, arguments.probabilities, predictor, len(files), model)
        # A stream takes its content when its turn comes to be left, and may then refuse: it is left first.
        texts = [path for path in (arguments.out, arguments.json) if path is not None]
        partials = {
            path: stack.enter_context(replacing(path, or_stream=True))
            for path in sorted(texts, key=is_stream)
        }
        for path, partial in partials.items():
            with explain_os_errors(path, "write"):
                partial.touch()  # better now than after hours
        bar = stack.enter_context(progress_bar(console))
        line = _Line(
            arguments, files, predictor, job, maps, account, bar, bar.add_task("predicting", total=len(files))
        )
        with explain_os_errors(arguments.out, "write"):
            write_rows(partials[arguments.out], line.rows(), compressed=arguments.out.suffix == ".gz")
        if arguments.json is not None:
            with explain_os_errors(arguments.json, "write"):
                text = json.dumps(_as_json(arguments, account, model, predictor), indent=1, allow_nan=False)
                partials[arguments.json].write_text(f"{text}\n", encoding="utf-8")
    return account


def _begin_folder(stack: contextlib.ExitStack, path: Path | None) -> Path | None:
    if path is None:
        return None
    partial = stack.enter_context(replacing(path))
    with explain_os_errors(path, "write"):
        partial.mkdir()
    return partial


def _begin_maps(
    stack: contextlib.ExitStack, path: Path | None, predictor: Predictor, most: int, model: Model
) -> ProbabilityFile | None:
    if path is None:
        return None
    partial = stack.enter_context(replacing(path))
    attributes: dict[str, str | int | float] = {
        "framework": model.backend.name,
        "models": len(model.members),
        "flip": model.flip,
    }
    with explain_os_errors(path, "write"):
        file = ProbabilityFile(partial, predictor.height, predictor.width, most, attributes)
    return stack.enter_context(file)


@dataclass(frozen=True)
class _Line:
    """The stages that every image passes: read, predict, conclude."""

    arguments: argparse.Namespace
    files: Sequence[Path]
    predictor: Predictor
    job: Job
    maps: ProbabilityFile | None
    account: Account
    bar: Progress
    task: TaskID

    @property
    def workers(self) -> int:
        return self.arguments.workers or available_cores()

    def rows(self) -> Iterator[tuple[str, str]]:
        """Image id and run-length encoding of every image: the predicted ones, then the unreadable."""
        account, started = self.account, time.perf_counter()
        results = map_in_order(
            conclude,
            self._tasks(),
            workers=self.workers,
            on_crash=functools.partial(crashed, job=self.job),
            prepare=prepare,
            arguments=(self.job,),
        )
        with contextlib.closing(results):
            for result in results:
                self.bar.advance(self.task)
                if result.failure:
                    account.unreadable.append(replace(result.source, reason=result.failure))
                else:
                    account.results.append(result)
                    yield result.source.image_id, result.encoding
        account.seconds = time.perf_counter() - started
        done = {result.source.image_id for result in account.results}
        for source in list(account.unreadable):
            if source.image_id in done:  # a copy of it was read, or another unreadable file bears its name
                account.unreadable.remove(source)
                account.duplicates.append(source)
            else:
                done.add(source.image_id)
                yield source.image_id, rle.EMPTY

    def _tasks(self) -> Iterator[Task]:
        """Each image that can be read, once, with its probabilities."""
        account, seen, batch, names = self.account, set[str](), list[Reading](), FileNames()
        size = self.predictor.height, self.predictor.width
        readings = read_all(self.arguments.images, self.files, *size, workers=self.workers)
        with contextlib.closing(readings):
            for reading in readings:
                source = reading.source
                if reading.image is None:
                    kind = account.not_listed if is_folder(source.file) else account.unreadable
                elif source.image_id in seen:
                    kind = account.duplicates
                else:
                    seen.add(source.image_id)
                    batch.append(reading)
                    if len(batch) == self.arguments.batch_size:
                        yield from self._predicted(batch, names)
                        batch = []
                    continue
                kind.append(source)
                self.bar.advance(self.task)
        if batch:
            yield from self._predicted(batch, names)

    def _predicted(self, batch: Sequence[Reading], names: FileNames) -> Iterator[Task]:
        images = np.stack([reading.image for reading in batch if reading.image is not None])
        found = self.predictor.predict(images[..., np.newaxis])
        for (source, _), probability in zip(batch, found[..., 0], strict=True):
            if self.maps is not None:
                with explain_os_errors(self.arguments.probabilities, "write"):
                    self.maps.add(source.image_id, (source.height, source.width), probability)
            name = names.take(source.image_id)
            if name != file_name(source.image_id):
                self.account.renamed.append((source, name))
            yield Task(source, probability, name)


def _version(package: str) -> str | None:
    """Of an installed package; highdicom, for one, is needed for Segmentation objects alone."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _as_json(
    arguments: argparse.Namespace, account: Account, model: Model, predictor: Predictor
) -> dict[str, Any]:
    """All answers; see docs/prediction.md."""
    left_out = account.unreadable + account.not_listed
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "thresholds": {**asdict(model.thresholds), "origin": model.decision.origin},
        "model": {
            "framework": model.backend.name,
            "device": model.device,
            "members": [
                {"checkpoint": str(member.path), "sha256": digest}
                for member, digest in zip(model.members, model.hashes, strict=True)
            ],
            "mirror_images": model.flip,
            "height": predictor.height,
            "width": predictor.width,
        },
        "versions": {
            TOOL: importlib.metadata.version(TOOL),
            "python": platform.python_version(),
            model.backend.name: model.backend.version(),
            **{name: _version(name) for name in ("numpy", "pydicom", "highdicom")},
        },
        "totals": {
            "images": len(account.results) + len(account.unreadable),
            "predicted": len(account.results),
            "positive": account.positives,
            "negative": len(account.results) - account.positives,
            "unreadable": len(left_out),
            "duplicates": len(account.duplicates),
        },
        "images": [_image_as_json(result, arguments) for result in account.results],
        "unreadable": [
            {"id": source.image_id, "file": source.name, "reason": source.reason} for source in left_out
        ],
        "duplicates": [{"id": source.image_id, "file": source.name} for source in account.duplicates],
    }


def _image_as_json(result: Result, arguments: argparse.Namespace) -> dict[str, Any]:
    source = result.source
    geometry = source.geometry
    share = result.pixels / (source.height * source.width)
    left, right = result.pixels_left, result.pixels - result.pixels_left
    record: dict[str, Any] = {
        "id": source.image_id,
        "file": source.name,
        "height": source.height,
        "width": source.width,
        "positive": result.positive,
        "existence": result.existence,
        "pixels": result.pixels,
        "share": share,
        "area_mm2": area_in_mm2(geometry, result.pixels),
        "area_at": geometry.at or None,
        "box": None if result.box is None else result.box._asdict(),
        "pixels_in_left_half": left,
        "pixels_in_right_half": right,
        "sides": [side for side, number in ((geometry.left, left), (geometry.right, right)) if number]
        if geometry.left
        else None,
    }
    if source.note:
        record["note"] = source.note
    if arguments.dicom_seg is not None and result.positive:
        record["no_segmentation"] = result.no_segmentation or None
    return record


def _show(console: Terminal, arguments: argparse.Namespace, account: Account) -> None:
    """The counts, what went wrong by name, and where everything is."""
    predicted = len(account.results)
    speed = f", {predicted / account.seconds:.1f} images/s" if predicted else ""
    console.print(
        f"{predicted} image{'' if predicted == 1 else 's'} predicted: {account.positives} positive, "
        f"{predicted - account.positives} negative{speed}"
    )
    refused = [(result.source.name, result.no_segmentation) for result in account.results]
    undrawn = [(result.source.name, result.no_truth) for result in account.results]
    noted = [(result.source.name, result.source.note) for result in account.results]
    most = most_shown(_MOST_SHOWN)
    for title, remarks in (
        (
            "unreadable (its row in the submission says -1, no pneumothorax)",
            [(one.name, one.reason) for one in account.unreadable],
        ),
        ("note", [one for one in noted if one[1]]),
        ("not listed", [(one.name, one.reason) for one in account.not_listed]),
        ("passed over, its id came before", [(one.name, one.image_id) for one in account.duplicates]),
        ("no Segmentation object", [one for one in refused if one[1]]),
        ("truth not drawn", [one for one in undrawn if one[1]]),
        (
            "named otherwise, since another id gives the same file name",
            [
                (source.name, f"its files are called {name}")
                for source, name in (account.renamed if _has_files(arguments) else [])
            ],
        ),
    ):
        tell = console.problem if title.startswith(_LEFT_OUT) else console.print
        for name, reason in remarks[:most]:
            tell(visible(f"{title}: {name}: {reason}"))
        if len(remarks) > most:
            tell(f"{title}: {len(remarks) - most} more")
    made = account.positives - sum(bool(reason) for _, reason in refused)
    written = [f"{arguments.out} ({predicted + len(account.unreadable)} rows)"]
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
    """Whether there are files of each image."""
    return any((arguments.masks, arguments.overlays, arguments.dicom_seg))


def _show_annotations(
    console: Console, annotations: Annotations, truth: Identities, account: Account
) -> None:
    """What of the annotations was not taken as it stands, and where images and annotations do not meet."""
    sources = [*(result.source for result in account.results), *account.unreadable, *account.duplicates]
    chosen = {source.name: truth.choose(source.file, source.uid) for source in sources}
    lacking = [
        result.source.name
        for result in account.results
        if chosen[result.source.name] not in annotations.rows_of
    ]
    met, most = set(chosen.values()), most_shown(_MOST_NAMED)
    idle = [one for one in annotations.rows_of if one not in met]
    for title, places in {
        **annotations.passed_over,
        "image without annotation": lacking,
        "annotation without image": idle,
    }.items():
        if places:
            more = f" and {len(places) - most:,} more" if len(places) > most else ""
            console.print(visible(f"{title}: {', '.join(map(str, places[:most]))}{more}"))
    if met.isdisjoint(annotations.rows_of) and (near := annotations.explain_near_miss(met)):
        console.print(visible(f"no annotation is of any image. {near}"))
