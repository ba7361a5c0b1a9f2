"""The settings of the recipe: how the rate changes, which images a batch has, how they are altered.

Promises: each class here is one key of `training` (see `docs/training.md`); its defaults leave training
as it is without the key. What the numbers do is written where it is done: `core.training.schedules`,
`data.batches.sampling`, `data.batches.augmentation`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from core.base.errors import UserError
from core.network.specification import Strict

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Factor = Annotated[float, Field(gt=0.0, le=1.0)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]


class _Schedule(Strict):
    """What every schedule has: a linear warm-up over the first `warmup_epochs`, whole or not."""

    warmup_epochs: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0


class ConstantSchedule(_Schedule):
    """The learning rate stays what it is."""

    name: Literal["constant"] = "constant"


class StepSchedule(_Schedule):
    """Multiply the rate by `factor` after every `every` epochs, or after each of the `milestones`."""

    name: Literal["step"] = "step"
    factor: Factor = 0.1
    every: Epochs | None = None
    milestones: tuple[Epochs, ...] = ()

    @model_validator(mode="after")
    def _has_steps(self) -> Self:
        if (self.every is None) == (not self.milestones):
            raise UserError(
                "training.schedule: a step schedule takes either every or milestones; "
                f"received every={self.every}, milestones={list(self.milestones)}"
            )
        return self


class CosineSchedule(_Schedule):
    """Half a cosine from the rate down to the share `final` of it at the run's end."""

    name: Literal["cosine"] = "cosine"
    final: Share = 0.0


class PlateauSchedule(_Schedule):
    """Multiply the rate by `factor` whenever the monitored score has not improved for `patience` epochs."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    patience: Annotated[int, Field(ge=1)] = 5
    min_rate: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0


Schedule: TypeAlias = Annotated[
    ConstantSchedule | StepSchedule | CosineSchedule | PlateauSchedule, Field(discriminator="name")
]


class Sampling(Strict):
    """Share of positives in each batch, from `positives` in the first epoch to `final` in `over_epochs`.

    `final` null is `positives`; `over_epochs` null are all epochs of the run. See `data.batches.sampling`.
    """

    positives: Share
    final: Share | None = None
    over_epochs: Epochs | None = None


class Augmentation(Strict):
    """How images are altered for training; all zero alters nothing. See `data.batches.augmentation`."""

    horizontal_flip: Share = 0.0
    shift: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    affine_probability: Share = 1.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    gamma: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    intensity_probability: Share = 1.0
    noise: Share = 0.0
    noise_probability: Share = 1.0
