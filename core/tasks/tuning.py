"""Search of a model's thresholds on its held-out images, and writing of the thresholds file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.backend.contract import Implementation
from core.base.errors import UserError
from core.prediction.exports import EXPORT, update_thresholds
from core.prediction.predictor_process import BeginPrediction
from core.prediction.trained_models import Member, find_members, history_of_run
from core.scoring.evaluation_record import Surface
from core.scoring.histograms import Histograms
from core.scoring.intervals import Interval, Proportion
from core.scoring.operating_points import OperatingPoint, greatest_rate
from core.scoring.threshold_search import SearchResult, search_thresholds, surfaces
from core.scoring.thresholds import (
    THRESHOLDS_FILE,
    Thresholds,
    load_saved_thresholds,
    save_thresholds,
)
from core.scoring.views import PLAIN, Views
from core.tasks.predictions import remark_on_folds
from core.tasks.progress import Watcher
from core.tasks.scoring import OpenModels, open_here, score
from core.tasks.validation_split import scoring_groups, store_for_models
from data.hdf5.store import Store


class Tuned(NamedTuple):
    """The result of a search.

    Attributes:
        search: The thresholds with their scores.
        surfaces: Mean Dice around the thresholds.
        epochs: For each model the number of epochs among which its checkpoint was chosen.
    """

    search: SearchResult
    surfaces: tuple[Surface, ...]
    epochs: tuple[int, ...]


def tune_after_training(
    watcher: Watcher,
    store: Store,
    folder: Path,
    implementation: Implementation,
    device: str,
    batch_size: int,
) -> None:
    """Tune in the process of a finished training; if that is not possible, one line tells the reason.

    If the training was continued, its thresholds are searched as those of before: for the same operating
    point, on the same views.
    """
    try:
        before = load_saved_thresholds(folder)
        views = PLAIN if before is None or before.views is None else before.views
        asked = None if before is None else before.operating_point
        point = None if asked is None else OperatingPoint(*asked)

        def open_models(members: Sequence[Member]) -> BeginPrediction:
            return open_here(members, implementation, device, views=views)

        tuned = tune_thresholds(watcher, store, folder, open_models, batch_size, views=views, point=point)
    except UserError as error:
        holding = "those of before hold" if (folder / THRESHOLDS_FILE).is_file() else "the defaults hold"
        watcher.say(f"Thresholds were not searched, so {holding}: {error.message}")
        return
    watcher.say(describe(folder, tuned.search))
    if point is not None or views != PLAIN:
        watcher.say(describe_rates(tuned.search))


def held_out_histograms(
    watcher: Watcher, store: Store, members: Sequence[Member], open_models: OpenModels, batch_size: int
) -> Histograms:
    """Return the histograms of the images that some models held out; thresholds are searched on them."""
    store = store_for_models(store, members)
    parts = scoring_groups(store, members, "validation")
    scored = score(watcher, store, parts, open_models, Thresholds(), batch_size, "thresholds")
    return scored.scorer.histograms()


def tune_thresholds(
    watcher: Watcher,
    store: Store,
    folder: Path,
    open_models: OpenModels,
    batch_size: int,
    *,
    views: Views = PLAIN,
    point: OperatingPoint | None = None,
) -> Tuned:
    """Search the thresholds of the model or the folds in a folder on held-out images, and write them.

    Args:
        watcher: Receives the progress.
        store: The images.
        folder: The folder of the model or of its folds.
        open_models: Compiles some models and returns how they predict.
        batch_size: Images at a time.
        views: What is averaged to predict.
        point: An operating point that the thresholds must reach; None for the best Dice.

    Raises:
        UserError: There is no model, no image was held out, no held-out image is positive, or the operating
            point cannot be reached; then the thresholds stay as they were.
    """
    members = find_members([folder])
    if remark := remark_on_folds([folder], members):
        watcher.say(remark)
    histograms = held_out_histograms(watcher, store, members, open_models, batch_size)
    began = time.perf_counter()
    found = search_thresholds(histograms, point)
    if found is None:
        raise _not_found(histograms, point)
    fitted = found.cross_fitted
    epochs = tuple(len(history_of_run(member)) for member in members)
    facts = {
        "operating_point": None if point is None else {point.rate: point.least},
        "sensitivity": found.confusion.sensitivity.as_json(),
        "specificity": found.confusion.specificity.as_json(),
        "dice": found.dice,
        "dice_default": found.dice_default,
        "dice_cross_fitted": found.dice_cross_fitted,
        "dice_all_empty": found.dice_all_empty,
        "above_all_empty": None if fitted is None else _estimate(fitted.gain, fitted.gain_interval),
        "images": found.images,
        "positives": found.positives,
        "reach": found.reach,
        "flip": views.flip,
        "scales": views.scales,
        "epochs": list(epochs),
        "checkpoints": [str(member.path.relative_to(folder)) for member in members],
        "seconds": round(time.perf_counter() - began, 3),
    }
    save_thresholds(folder, found.thresholds, facts)
    update_thresholds(folder / EXPORT, found.thresholds, views)
    return Tuned(found, surfaces(histograms, found.thresholds), epochs)


def _not_found(images: Histograms, point: OperatingPoint | None) -> UserError:
    """Return the error for a search without a result."""
    if point is None or not images.positive.any():
        return UserError(f"none of the {len(images)} held-out images is positive: nothing to search on.")
    greatest = greatest_rate(images, point.rate)
    kind = "positive" if point.rate == "sensitivity" else "negative"
    if greatest.share is None:
        return UserError(f"none of the {len(images)} held-out images is {kind}: {point.rate} is not defined.")
    return UserError(
        f"no thresholds reach a {point} on the {greatest.count} {kind} held-out images; the greatest is "
        f"{greatest.share:.4f} ({greatest.successes} images). The thresholds stay as they were.",
        "Ask for less, or train a better model.",
    )


def _estimate(value: float, interval: Interval | None) -> dict[str, Any]:
    return {"value": value, "interval": None if interval is None else list(interval)}


def describe(folder: Path, found: SearchResult) -> str:
    """Return the result of a search in one line."""
    expected = "" if found.cross_fitted is None else f", cross-fitted {found.cross_fitted.dice:.4f}"
    return (
        f"Thresholds: {found.thresholds} in {folder / THRESHOLDS_FILE}; Dice at the original size "
        f"{found.dice:.4f} with them{expected}, with the defaults {found.dice_default:.4f} (all-empty floor "
        f"{found.dice_all_empty:.4f})"
    )


def describe_rates(found: SearchResult) -> str:
    """Return sensitivity and specificity on the images of the search, in one line."""
    asked = "" if found.point is None else f" (asked: {found.point})"
    rates = {"sensitivity": found.confusion.sensitivity, "specificity": found.confusion.specificity}
    known = [f"{name} {_share(rate)}" for name, rate in rates.items() if rate.count]
    return f"Is there a pneumothorax: {', '.join(known)}{asked}"


def describe_gain(tuned: Tuned) -> str:
    """Return what new images may give, in one line; "" without an estimate."""
    fitted = tuned.search.cross_fitted
    if fitted is None:
        return ""
    chosen = [epochs for epochs in tuned.epochs if epochs > 1]
    kept = f"; not in it: the choice among {' and '.join(map(str, chosen))} epochs" if chosen else ""
    return (
        f"On new images of this kind: Dice {fitted.gain:+.4f}{_between(fitted.gain_interval)} against the "
        f"all-empty floor (95 %, with the search{kept})"
    )


def _share(rate: Proportion) -> str:
    return f"{rate.share:.4f}{_between(rate.interval)} of {rate.count} images"


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f" [{interval.lower:.4f}, {interval.upper:.4f}]"
