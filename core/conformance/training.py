"""Checks of training in float32: the toolkit's networks at sizes and batches that people use.

The pictures are uniform noise, or similar to radiographs: smooth, in steps of 1/255, with black borders and
saturated areas, where the input of ReLU is exactly 0. The state is the one before the first step (every bias
0) or a lively one, whose arrays all have noise added. The momentum of batch norm is 0.5, so that errors of a
batch's statistics show in the running ones. A jump of ReLU can hide an error of a gradient, but not of a
statistic. The checks compare the loss, every gradient and every array, after one step or each of ten.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from core.backend.contract import Array, Implementation, Precision, step_and_gradients
from core.backend.state import by_kind
from core.conformance.cases import Case, case_of, require_agreement
from core.conformance.suite import BackendCaller, Check
from core.experiment.configuration import load_configuration
from core.tolerance.budget import ArraysByKind

SUBJECT = "training in float32"

Pictures = Literal["radiographs", "noise"]


@dataclass(frozen=True)
class Setting:
    """A network and the images that it is trained on.

    Args:
        network: The name of a configuration.
        size: Height and width of the images.
        batches: Number of images in the batch of each step.
        pictures: What the images show.
        fresh: Whether the state is the one before the first step; otherwise it is lively (`cases.case_of`).
    """

    network: str
    size: int
    batches: tuple[int, ...]
    pictures: Pictures = "radiographs"
    fresh: bool = True

    def __str__(self) -> str:
        steps = f", {len(self.batches)} steps" if len(self.batches) > 1 else ""
        batch = f"batch {self.batches[0]}{steps}"
        return f"{self.network} {self.size}x{self.size}, {batch}, {self.input}"

    @property
    def input(self) -> str:
        """A description of the pictures and the state."""
        return f"{self.pictures}{'' if self.fresh else ', a lively state'}"


USUAL = (
    Setting("fcn", 8, (3, 1, 2), "noise", fresh=False),
    Setting("fcn", 96, (8,)),
    Setting("fcn", 96, (8,), "noise", fresh=False),
    Setting("fcn", 192, (3,), "noise"),
    Setting("fcn", 384, (1,)),
    Setting("fcn", 384, (2,), fresh=False),
    Setting("demo", 128, (16,)),
    Setting("demo", 128, (16,), "noise", fresh=False),
    Setting("demo", 96, (1,)),
    Setting("unet", 96, (4,)),
    Setting("unet", 96, (1,), "noise", fresh=False),
    Setting("demo", 96, (4, 4, 2, 4, 4, 1, 4, 4, 3, 4)),
    Setting("fcn", 96, (2, 2, 1, 2, 2, 2, 2, 1, 2, 2), "noise"),
)
"""The settings that are always checked; the first has a single pixel at the bottleneck."""

LARGE = (
    Setting("fcn", 384, (8,)),
    Setting("fcn", 192, (24,)),
    Setting("fcn", 96, (32,), "noise"),
    Setting("fcn_skip", 288, (5,), fresh=False),
    Setting("demo", 384, (8,)),
    Setting("demo", 256, (7,), "noise"),
    Setting("unet", 384, (1,)),
    Setting("unet", 192, (4,), fresh=False),
    Setting("unet", 128, (8,), "noise"),
    Setting("unet", 96, (3, 3, 3, 1, 3, 3, 3, 2, 3, 3)),
    Setting("fcn", 192, (3, 3, 1, 3, 3, 3, 3, 2, 3, 3)),
)
"""The settings with the largest images; they are slow, mostly because of the reference."""


def training_checks(settings: Sequence[Setting]) -> list[Check]:
    """Return a check for each setting."""
    return [_check(setting) for setting in settings]


@functools.cache
def case_of_setting(setting: Setting, seed: int = 5) -> Case:
    """Return the setting's case; always the same object, for which the reference's results are cached."""
    configuration = load_configuration(Path(setting.network), ["network.batch_norm_settings={momentum: 0.5}"])
    case = case_of(
        configuration,
        setting.size,
        setting.size,
        batches=setting.batches,
        seed=seed,
        lively=not setting.fresh,
    )
    if setting.pictures == "radiographs":
        rng = np.random.default_rng([seed, 384])
        for images, masks in case.batches:
            fill_with_radiographs(rng, images, masks)
    return case


def fill_with_radiographs(rng: np.random.Generator, images: Array, masks: Array) -> None:
    """Fill a batch with smooth pictures in steps of 1/255 that have black and saturated areas.

    Args:
        rng: The source of all random numbers.
        images: (N, H, W, 1) float32; overwritten.
        masks: (N, H, W, 1) uint8; overwritten with 1 where the picture is bright.
    """
    _, height, width, _ = images.shape
    rows, columns = np.ogrid[:height, :width]
    for image, mask in zip(images, masks, strict=True):
        waves, phases = rng.uniform(0.05, 0.15, 2), rng.uniform(0, 6, 2)
        shade = np.sin(rows / (waves[0] * height) + phases[0]) * np.cos(
            columns / (waves[1] * width) + phases[1]
        )
        grey = 0.5 + 0.45 * shade + 0.08 * rng.standard_normal((height, width))
        top, left = (rng.uniform(0.05, 0.2, 2) * (height, width)).astype(int)
        grey[:top], grey[:, :left] = 0.0, 0.0
        grey[-height // 9 :, width // 3 : width // 2] = 1.0
        image[..., 0] = np.round(255 * np.clip(grey, 0, 1)) / np.float32(255)
        mask[..., 0] = grey > 0.75


def train(implementation: Implementation, case: Case, precision: Precision) -> list[ArraysByKind]:
    """Train on all batches; return loss, gradients and all arrays of each step."""
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    steps: list[ArraysByKind] = []
    for step, (images, masks) in enumerate(case.batches, start=1):
        given = (images, masks, case.scalars(step), case.keep(step, len(images)))
        loss, gradients = step_and_gradients(model, *given)
        steps.append({**by_kind(model.state()), "gradient": gradients, "loss": {"loss": np.array(loss)}})
    return steps


def _check(setting: Setting) -> Check:
    def run(backend: BackendCaller) -> None:
        case = case_of_setting(setting)
        require_agreement(train, backend.call(train, case, "float32"), case, "float32")

    return Check(SUBJECT, str(setting), "float32", run)
