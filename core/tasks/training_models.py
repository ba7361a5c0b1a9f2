"""The compiled models of a training: one for the images that it trains on, one for those that it scores."""

from __future__ import annotations

from typing import NamedTuple

from core.backend.contract import Implementation, Model
from core.experiment.configuration import Configuration
from core.network.lowering import lower
from core.network.plan import Plan


class TrainingModels(NamedTuple):
    """The models of a worker.

    Attributes:
        plan: The plan that is trained.
        model: Its model.
        whole: The plan for whole images; `plan` without crops.
        scoring: Its model, for the held-out images and the export; None without crops. It takes memory for
            weights and moments a second time.
    """

    plan: Plan
    model: Model
    whole: Plan
    scoring: Model | None

    @classmethod
    def compile(
        cls,
        implementation: Implementation,
        configuration: Configuration,
        height: int,
        width: int,
        device: str,
    ) -> TrainingModels:
        """Compile a configuration's network for images of a height and width.

        Raises:
            UserError: The network does not take such images or crops, or the backend refuses it.
        """
        settings = configuration.training
        plan = whole = configuration.training_plan(height, width)
        scoring = None
        model = implementation.compile(plan, settings.rules(), device, settings.precision)
        if (plan.input.height, plan.input.width) != (height, width):
            whole = lower(configuration.network, height, width)
            scoring = implementation.compile(whole, settings.rules(), device, settings.precision)
        return cls(plan, model, whole, scoring)
