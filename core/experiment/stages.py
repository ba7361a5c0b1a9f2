"""Stages of a training: one after the other, each with settings of its own.

`training.stages` is a list. Each entry names keys of `training` that change in its stage; a section in it
changes only the keys that it names, or is replaced if it has another `name`. All else stays as in the stage
before. Each stage begins with the model that the stage before ends with (its averaged or best epoch), with
new moments and the learning rate's schedule from its beginning.

A checkpoint has the settings of its stage, in which `training.stage` is the stage's number from 1. From those
of the first stage all others follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIXED_KEYS = ("seed", "folds", "fold", "validation_fraction", "start_from", "stage", "stages")
"""Keys of `training` that are the same in all stages: they belong to the data, or to the whole training."""

Content = dict[str, Any]


def stage_contents(training: Mapping[str, Any]) -> list[Content]:
    """Return the content of `training` in each of its stages, with `stage` set.

    Args:
        training: The section of a configuration, as plain dictionaries. Its own keys hold before the first
            stage changes them.
    """
    found, settings = [], dict(training)
    for number, changes in enumerate(training["stages"], start=1):
        settings = {**_changed(settings, changes), "stage": number}
        found.append(settings)
    return found


def _changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Content:
    """Return settings with some changes in them, section by section."""
    found = dict(settings)
    for key, value in changes.items():
        before = found.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and _is_alike(before, value):
            found[key] = _changed(before, value)
        else:
            found[key] = value
    return found


def _is_alike(before: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Tell whether both are of one kind: an optimiser of another name has other keys."""
    return "name" not in changes or changes["name"] == before.get("name")
