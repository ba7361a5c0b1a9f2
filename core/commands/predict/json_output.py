"""The JSON file of `predict --json`: all results, the model and the versions."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from typing import Any

from core.commands.predict.loaded_model import LoadedModel
from core.commands.predict.pipeline import FileOutcomes
from core.commands.predict.results import ImageResult
from core.commands.shared.versions import TOOL
from core.tasks.predictions import area_in_mm2

FORMAT = "pneumoseg-prediction"
FORMAT_VERSION = 1


def as_json(arguments: argparse.Namespace, outcomes: FileOutcomes, model: LoadedModel) -> dict[str, Any]:
    """Return the content of the JSON file; docs/prediction.md describes it."""
    left_out = outcomes.unreadable + outcomes.not_listed
    clahe = model.members[0].checkpoint.data.clahe
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "thresholds": {**model.thresholds.as_dict(), "origin": model.decision.origin},
        "model": {
            "framework": model.backend.name,
            "device": model.device,
            "members": [
                {"checkpoint": str(member.path), "sha256": digest}
                for member, digest in zip(model.members, model.hashes, strict=True)
            ],
            "mirror_images": model.views.flip,
            "scales": list(model.views.scales),
            "height": model.size[0],
            "width": model.size[1],
            "clahe": None if clahe is None else {"limit": clahe[0], "tiles": clahe[1]},
        },
        "versions": {
            TOOL: importlib.metadata.version(TOOL),
            "python": platform.python_version(),
            model.backend.name: model.backend.version(),
            **{name: _version(name) for name in ("numpy", "pydicom", "highdicom")},
        },
        "totals": {
            "images": len(outcomes.results) + len(outcomes.unreadable),
            "predicted": len(outcomes.results),
            "positive": outcomes.positives,
            "negative": len(outcomes.results) - outcomes.positives,
            "unreadable": len(left_out),
            "duplicates": len(outcomes.duplicates),
        },
        "images": [_image_as_json(result, arguments) for result in outcomes.results],
        "unreadable": [
            {"id": source.image_id, "file": source.name, "reason": source.reason} for source in left_out
        ],
        "duplicates": [{"id": source.image_id, "file": source.name} for source in outcomes.duplicates],
    }


def _image_as_json(result: ImageResult, arguments: argparse.Namespace) -> dict[str, Any]:
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
        "existence_probability": result.existence_probability,
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


def _version(package: str) -> str | None:
    """Return the version of a package; None where it is not installed, as optional ones may not be."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
