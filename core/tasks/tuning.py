"""Search of a model's thresholds on its held-out images, and writing of the thresholds file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from core.backend.contract import Implementation
from core.base.errors import UserError
from core.prediction.exports import EXPORT, update_thresholds
from core.prediction.predictor_process import BeginPrediction
from core.prediction.trained_models import Member, find_members
from core.scoring.evaluation_record import Surface
from core.scoring.threshold_search import SearchResult, search_thresholds, surfaces
from core.scoring.thresholds import THRESHOLDS_FILE, Thresholds, save_thresholds
from core.scoring.views import PLAIN, Views
from core.tasks.predictions import remark_on_folds
from core.tasks.progress import Watcher
from core.tasks.scoring import OpenModels, open_here, score
from core.tasks.validation_split import scoring_groups, store_for_models
from data.hdf5.store import Store


def tune_after_training(
    watcher: Watcher,
    store: Store,
    folder: Path,
    implementation: Implementation,
    device: str,
    batch_size: int,
) -> None:
    """Tune in the process of a finished training; if that is not possible, one line tells the reason."""

    def open_models(members: Sequence[Member]) -> BeginPrediction:
        return open_here(members, implementation, device)

    try:
        found, _ = tune_thresholds(watcher, store, folder, open_models, batch_size)
    except UserError as error:
        watcher.say(f"Thresholds were not searched, so the defaults hold: {error.message}")
        return
    watcher.say(describe(folder, found))


def tune_thresholds(
    watcher: Watcher,
    store: Store,
    folder: Path,
    open_models: OpenModels,
    batch_size: int,
    *,
    views: Views = PLAIN,
) -> tuple[SearchResult, tuple[Surface, ...]]:
    """Search the thresholds of the model or the folds in a folder on held-out images, and write them.

    Raises:
        UserError: There is no model, no image was held out, or no held-out image is positive.
    """
    members = find_members([folder])
    if remark := remark_on_folds([folder], members):
        watcher.say(remark)
    store = store_for_models(store, members)
    parts = scoring_groups(store, members, "validation")
    scored = score(watcher, store, parts, open_models, Thresholds(), batch_size, "thresholds")
    histograms = scored.scorer.histograms()
    began = time.perf_counter()
    found = search_thresholds(histograms)
    if found is None:
        raise UserError(f"none of the {len(histograms)} held-out images is positive: nothing to search on.")
    facts = {
        "dice": found.dice,
        "dice_default": found.dice_default,
        "dice_cross_fitted": found.dice_cross_fitted,
        "dice_all_empty": found.dice_all_empty,
        "images": found.images,
        "positives": found.positives,
        "reach": found.reach,
        "flip": views.flip,
        "scales": views.scales,
        "checkpoints": [str(member.path.relative_to(folder)) for member in members],
        "seconds": round(time.perf_counter() - began, 3),
    }
    save_thresholds(folder, found.thresholds, facts)
    update_thresholds(folder / EXPORT, found.thresholds, views)
    return found, surfaces(histograms, found.thresholds)


def describe(folder: Path, found: SearchResult) -> str:
    """Return the result of a search in one line."""
    expected = "" if found.dice_cross_fitted is None else f", cross-fitted {found.dice_cross_fitted:.4f}"
    return (
        f"Thresholds: {found.thresholds} in {folder / THRESHOLDS_FILE}; Dice at the original size "
        f"{found.dice:.4f} with them{expected}, with the defaults {found.dice_default:.4f} (all-empty floor "
        f"{found.dice_all_empty:.4f})"
    )
