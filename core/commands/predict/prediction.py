"""The command `predict`: check the options, load the model, predict all files, write the outputs.

Every output is written under a temporary name and renamed when all of them are complete. After an error or
Ctrl-C the old files are as they were.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from core.backend.contract import Implementation
from core.backend.devices import choose_device
from core.backend.registry import load_backend, require_backend
from core.base.errors import UserError
from core.base.packages import require
from core.base.standard_streams import visible
from core.base.system import available_cores
from core.commands.predict.json_output import as_json
from core.commands.predict.loaded_model import LoadedModel
from core.commands.predict.pipeline import FileOutcomes, MapsOutput, Predict, PredictionPipeline
from core.commands.predict.results import OutputSettings
from core.commands.predict.terminal_output import describe, show_annotation_problems, show_outcomes
from core.commands.shared import outputs, terminal
from core.commands.shared.frameworks import model_of, remark
from core.commands.shared.options import check_at_least_one, given_thresholds
from core.commands.shared.outputs import Input, Output, OutputFile, OutputFolder, claimed
from core.commands.shared.progress import progress_bar
from core.commands.shared.statuses import Status
from core.distribution.machines import Machines
from core.files.atomic import replacing
from core.files.destinations import is_stream
from core.files.system_errors import explain_os_errors
from core.prediction.predictor_process import SharedPrediction
from core.prediction.trained_models import Prediction, Predictor, find_members, has_existence
from core.processes.pool import closing_generator, map_in_order
from core.scoring.views import shown
from core.tasks.backend_choice import choose_predictor
from core.tasks.predictions import choose_settings, remark_on_folds
from core.tasks.validation_split import clahe_of
from data.annotations.annotation_file import Annotations, read_annotations
from data.annotations.image_ids import Identities, image_id
from data.hdf5.probability_maps import ProbabilityFile
from data.radiographs import dicom
from data.radiographs.resize import resize_image
from data.submissions.submission_file import write_rows


def run(arguments: argparse.Namespace, machines: Machines | None = None) -> Status:
    """Predict as the command line says.

    Args:
        arguments: The command line.
        machines: The machines that predict; None for this one alone.
    """
    framework = arguments.framework  # checked first, so a missing backend is reported at once
    if framework is not None:
        require_backend(framework)
    folders = arguments.model or [model_of(framework)]
    check_at_least_one(arguments, "batch_size", "workers")
    if arguments.dicom_seg:
        require(["highdicom"], "--dicom-seg")
    members = find_members(folders)
    head = has_existence(members)
    decision = choose_settings(
        folders, given_thresholds(arguments), arguments.tta, arguments.scales, head=head
    )
    files = _find(arguments.images)
    annotations = None
    if arguments.annotations is not None:
        annotations = read_annotations(arguments.annotations, set(map(image_id, files)))
    with claimed(_outputs(arguments), _inputs(arguments, folders), overwrite=arguments.overwrite):
        console = terminal.console(arguments.out, arguments.json, soft_wrap=True)
        chosen = framework or choose_predictor(members, arguments.device).name
        backend, implementation = load_backend(chosen)
        if framework is None:
            console.print(remark(backend))
        place = 0 if machines is None else machines.place
        device = choose_device(arguments.device, implementation.list_devices(), backend.title, place)
        model = LoadedModel(backend, device, members, decision)
        if machines is None:
            predict = _predict_here(model, implementation)
        else:
            predict = _predict_on(machines, model, arguments.device)
        console.print(describe(model, len(files)))
        for note in filter(None, (remark_on_folds(folders, members), *decision.remarks)):
            console.print(visible(note))
        try:
            outcomes = _predict(console, arguments, files, annotations, model, predict, machines)
        except KeyboardInterrupt:
            console.problem("Nothing was written.")
            raise
    show_outcomes(console, arguments, outcomes)
    if annotations is not None:
        show_annotation_problems(console, annotations, Identities.of(annotations, files), outcomes)
    left_out = outcomes.unreadable + outcomes.not_listed
    if arguments.strict and left_out:
        what = f"{len(left_out)} of {len(files)} files could not be read"
        raise UserError(f"{what}, which --strict makes an error; everything else was written.")
    return Status.of(left_out)


def _predict_here(model: LoadedModel, implementation: Implementation) -> Predict:
    """Compile the models in this process."""
    predictor = Predictor(model.members, implementation, model.device, views=model.views, resize=resize_image)

    def predict(batches: Iterator[NDArray[np.float32]]) -> Generator[Prediction, None, None]:
        with closing_generator(batches) as waiting:
            for images in waiting:
                yield predictor.predict_with_existence(images)

    return predict


def _predict_on(machines: Machines, model: LoadedModel, asked: str) -> Predict:
    """Let all machines compile the models and predict. If this one chose a GPU, all must have one."""
    device = model.device.partition(":")[0] if asked == "auto" else asked
    shared = SharedPrediction(model.backend.name, model.members, device, model.views, resize_image)
    return lambda batches: machines.spread(shared, batches)


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


def _predict(
    console: Console,
    arguments: argparse.Namespace,
    files: Sequence[Path],
    annotations: Annotations | None,
    model: LoadedModel,
    predict: Predict,
    machines: Machines | None,
) -> FileOutcomes:
    """Predict all files and write every output. Outputs appear together at the end, or not at all."""
    outcomes = FileOutcomes()
    with contextlib.ExitStack() as stack:
        settings = OutputSettings(
            thresholds=model.thresholds,
            identities=None if annotations is None else Identities.of(annotations, files),
            masks=_begin_folder(stack, arguments.masks),
            overlays=_begin_folder(stack, arguments.overlays),
            segmentations=_begin_folder(stack, arguments.dicom_seg),
            algorithm=model.algorithm() if arguments.dicom_seg else None,
        )
        maps = _begin_maps(stack, arguments.probabilities, len(files), model)
        # A stream is written when its context ends, which may fail. Contexts end in reverse order: streams
        # are entered last, so that such a failure comes before any file is replaced.
        texts = [path for path in (arguments.out, arguments.json) if path is not None]
        partials = {
            path: stack.enter_context(replacing(path, or_stream=True))
            for path in sorted(texts, key=is_stream)
        }
        for path, partial in partials.items():
            with explain_os_errors(path, "write"):
                partial.touch()  # an unwritable place is reported now, not after hours
        bar = stack.enter_context(progress_bar(console))
        task = bar.add_task("predicting", total=len(files))
        pipeline = PredictionPipeline(
            folder=arguments.images,
            files=files,
            size=model.size,
            clahe=clahe_of(model.members),
            predict=predict,
            batch_size=arguments.batch_size,
            workers=arguments.workers or available_cores(),
            mapping=map_in_order if machines is None else machines.map_in_order,
            settings=settings,
            maps=maps,
            outcomes=outcomes,
            advance=lambda: bar.advance(task),
        )
        with explain_os_errors(arguments.out, "write"), contextlib.closing(pipeline.rows()) as rows:
            write_rows(partials[arguments.out], rows, compressed=arguments.out.suffix == ".gz")
        if arguments.json is not None:
            with explain_os_errors(arguments.json, "write"):
                text = json.dumps(as_json(arguments, outcomes, model), indent=1, allow_nan=False)
                partials[arguments.json].write_text(f"{text}\n", encoding="utf-8")
    return outcomes


def _begin_folder(stack: contextlib.ExitStack, path: Path | None) -> Path | None:
    if path is None:
        return None
    partial = stack.enter_context(replacing(path))
    with explain_os_errors(path, "write"):
        partial.mkdir()
    return partial


def _begin_maps(
    stack: contextlib.ExitStack, path: Path | None, most: int, model: LoadedModel
) -> MapsOutput | None:
    if path is None:
        return None
    partial = stack.enter_context(replacing(path))
    attributes: dict[str, str | int | float] = {
        "framework": model.backend.name,
        "models": len(model.members),
        "flip": model.views.flip,
    }
    if model.views.scaled:
        attributes["scales"] = shown(model.views.scales)
    with explain_os_errors(path, "write"):
        file = ProbabilityFile(partial, *model.size, most, attributes)
    return MapsOutput(stack.enter_context(file), path)
