"""Settings of learning-rate schedules, of sampling, of augmentation and of crops.

Each class is the value of one key of `training` (see `docs/training.md`). The defaults have no effect.
`core.training.schedules`, `data.batches.sampling`, `data.batches.augmentation` and `data.batches.crops` say
what the numbers do.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from core.base.errors import UserError
from core.network.specification import Strict

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Factor = Annotated[float, Field(gt=0.0, le=1.0)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]


class _Schedule(Strict):
    """Keys of all schedules: a linear warm-up over the first `warmup_epochs`, which may be fractional."""

    warmup_epochs: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0


class ConstantSchedule(_Schedule):
    """Keep the learning rate constant."""

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
    """Reduce the rate along half a cosine, to the fraction `final` of it at the end of the run."""

    name: Literal["cosine"] = "cosine"
    final: Fraction = 0.0


class PlateauSchedule(_Schedule):
    """Multiply the rate by `factor` whenever the monitored value has not improved for `patience` epochs."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    patience: Annotated[int, Field(ge=1)] = 5
    min_rate: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0


Schedule: TypeAlias = Annotated[
    ConstantSchedule | StepSchedule | CosineSchedule | PlateauSchedule, Field(discriminator="name")
]


class SamplingSettings(Strict):
    """The fraction of positives in each batch, from `positives` in epoch 1 to `final` in `over_epochs`.

    If `final` is null, it is `positives`. If `over_epochs` is null, it is the number of epochs of the run.
    See `data.batches.sampling`.
    """

    positives: Fraction
    final: Fraction | None = None
    over_epochs: Epochs | None = None


class AugmentationSettings(Strict):
    """How images are changed for training. Zeros change nothing. See `data.batches.augmentation`."""

    horizontal_flip: Fraction = 0.0
    shift: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    affine_probability: Fraction = 1.0
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    gamma: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    intensity_probability: Fraction = 1.0
    noise: Fraction = 0.0
    noise_probability: Fraction = 1.0
    elastic: Fraction = 0.0
    elastic_smoothness: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    elastic_probability: Fraction = 1.0
    grid_distortion: Fraction = 0.0
    grid_cells: Annotated[int, Field(ge=1, le=1000)] = 5
    grid_probability: Fraction = 1.0
    clahe: Annotated[float, Field(ge=0.0, le=255.0)] = 0.0
    clahe_tiles: Annotated[int, Field(ge=1, le=256)] = 8
    clahe_probability: Fraction = 1.0


class CropSettings(Strict):
    """Train on crops of `size` x `size` pixels, the share `positives` of them with a mask in view.

    See `data.batches.crops`.
    """

    size: Annotated[int, Field(ge=1, le=8192)]
    positives: Fraction = 0.8
