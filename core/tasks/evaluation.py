"""Evaluation of a model or an ensemble on images of a data file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.backend.contract import Backend
from core.experiment.checkpoint import LAST, load_checkpoint
from core.prediction.predictor_process import BeginPrediction
from core.prediction.trained_models import Member
from core.scoring.evaluation_record import Evaluation, MemberRecord, Origin
from core.tasks.predictions import PredictionSettings
from core.tasks.progress import Watcher
from core.tasks.scoring import score
from core.tasks.validation_split import scoring_groups, store_for_models
from data.hdf5.store import Store

SplitName = Literal["validation", "all"]
"""The images to score: those that training held out, or every image of a file."""


@dataclass(frozen=True)
class EvaluatedModel:
    """The model or ensemble to evaluate.

    Args:
        backend: The framework's descriptor.
        folders: The models' folders, as the user named them.
        members: The models.
        settings: The thresholds and the views.
    """

    backend: Backend
    folders: Sequence[Path]
    members: Sequence[Member]
    settings: PredictionSettings


def evaluate(
    watcher: Watcher,
    store: Store,
    subject: EvaluatedModel,
    open_models: Callable[[Sequence[Member]], tuple[BeginPrediction, str]],
    *,
    data: str,
    split: SplitName,
    batch_size: int,
    also: frozenset[str] = frozenset(),
) -> Evaluation:
    """Score a model on images of an open file.

    Args:
        watcher: Receives the progress.
        store: The open file; its images are reduced to the model's size.
        subject: The model.
        open_models: Compiles some members; returns how they predict, and their device.
        data: The file as the user named it.
        split: The images to score.
        batch_size: Images at a time.
        also: Ids of images to keep for comparison: see `core.scoring.scorer.Scorer`.

    Raises:
        UserError: The images do not fit the models (`validation_split.scoring_groups`), or are unreadable.
    """
    store = store_for_models(store, subject.members)
    parts = scoring_groups(store, subject.members, split)
    devices = set()

    def begin(some: Sequence[Member]) -> BeginPrediction:
        opened, device = open_models(some)
        devices.add(device)
        return opened

    title = f"{subject.backend.name}: {', '.join(map(str, subject.folders))}"
    scored = score(watcher, store, parts, begin, subject.settings.thresholds, batch_size, title, also)
    origin = Origin(
        backend=subject.backend.name,
        framework=subject.backend.title,
        version=subject.backend.version(),
        device=", ".join(sorted(devices)),
        members=tuple(map(_record, subject.members)),
        data=data,
        split=split,
        flip=subject.settings.views.flip,
        scales=subject.settings.views.scales,
        thresholds=subject.settings.origin,
        height=store.height,
        width=store.width,
        images_per_second=scored.images_per_second,
    )
    return scored.scorer.evaluation(origin)


def _record(member: Member) -> MemberRecord:
    """Return the record of a model, with the history of its newest checkpoint."""
    progress = member.checkpoint.progress
    last = member.folder / LAST
    newest = load_checkpoint(last).progress if last.is_file() else progress
    return MemberRecord(
        folder=str(member.folder),
        checkpoint=member.path.name,
        epoch=len(progress.history),
        step=progress.step,
        history=newest.history,
    )
