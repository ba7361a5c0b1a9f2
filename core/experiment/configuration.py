"""The configuration of a run: the network and how it is trained, from YAML and the command line.

`load_configuration` returns a complete and valid configuration, or raises a `UserError` with one line for
each wrong key (`core.experiment.configuration_keys`). A shipped configuration (`configs/*.yaml`) is used if
there is no file of that name.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from core.backend.contract import Precision
from core.backend.trained_part import divide_blocks
from core.backend.training_rules import (
    MOST_LOSS_SCALE,
    AdamRule,
    LossRule,
    LossScaleRule,
    OptimizerRule,
    SgdRule,
    TrainingRules,
)
from core.base.errors import UserError
from core.base.randomness import words
from core.base.rounding import to_float32
from core.experiment.configuration_keys import Key, explain_error, key_path, keys_of_schema
from core.experiment.recipe import (
    AugmentationSettings,
    AverageSettings,
    ConstantSchedule,
    CropSettings,
    SamplingSettings,
    Schedule,
)
from core.experiment.shipped_configurations import FOLDER, shipped_configurations
from core.experiment.stages import FIXED_KEYS, stage_contents
from core.files.system_errors import explain_os_errors
from core.network.lowering import lower
from core.network.plan import Plan
from core.network.specification import Network, Strict

# PyYAML raises Python's own errors for impossible dates and numbers and for nesting that is too deep.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)

Weight = Annotated[float, Field(ge=0.0, le=1e6)]
# The lower bound makes 1 - b exact in float32 (core.base.rounding).
Beta = Annotated[float, Field(ge=0.5, lt=1.0)]
Decay = Annotated[float, Field(ge=0.0, le=1.0)]


class _Optimizer(Strict):
    """Keys that all optimisers have. The formulas are in `core.backend.training_rules`."""

    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1e-3
    weight_decay: Decay = 0.0


class _Adaptive(_Optimizer):
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-7

    def rule(self) -> OptimizerRule:
        """Return the constants, rounded to float32 for the backends."""
        return AdamRule(to_float32(self.beta1), to_float32(self.beta2), to_float32(self.epsilon))


class Adam(_Adaptive):
    """Adam. `weight_decay` is decoupled and applies to kernels; the default is none."""

    name: Literal["adam"] = "adam"


class AdamW(_Adaptive):
    """Adam with another default of `weight_decay`. The arithmetic is the same."""

    name: Literal["adamw"] = "adamw"
    weight_decay: Decay = 0.01


class Sgd(_Optimizer):
    """Stochastic gradient descent with momentum, plain or Nesterov's."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1e-2
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False

    def rule(self) -> OptimizerRule:
        """Return the constants, rounded to float32 for the backends."""
        return SgdRule(to_float32(self.momentum), self.nesterov)


def _with_default_name(optimizer: Any) -> Any:
    """Add the name "adam" to an optimiser without a name."""
    return {"name": "adam", **optimizer} if isinstance(optimizer, dict) else optimizer


Optimizer = Annotated[Adam | AdamW | Sgd, Field(discriminator="name"), BeforeValidator(_with_default_name)]


class Loss(Strict):
    """Weights and constants of the parts of the loss. The formulas are in `core.backend.training_rules`.

    `existence` is the weight of the existence head's part: None is 1 where the network has the head.
    """

    bce: Weight = 1.0
    dice: Weight = 1.0
    focal: Weight = 0.0
    focal_gamma: Annotated[float, Field(ge=0.0, le=10.0)] = 2.0
    tversky: Weight = 0.0
    tversky_alpha: Weight = 0.3
    tversky_beta: Weight = 0.7
    lovasz: Weight = 0.0
    existence: Annotated[float, Field(gt=0.0, le=1e6)] | None = None

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.bce == self.dice == self.focal == self.tversky == self.lovasz == 0:
            raise UserError(
                "training.loss: bce, dice, focal, tversky and lovasz are all 0; there is nothing to minimise"
            )
        if self.tversky and self.tversky_alpha == self.tversky_beta == 0:
            raise UserError("training.loss: with tversky_alpha and tversky_beta both 0 no error would count")
        return self

    def rule(self) -> LossRule:
        """Return the weights and constants, rounded to float32 for the backends."""
        return LossRule(**{name: to_float32(1.0 if value is None else value) for name, value in self})


class LossScale(Strict):
    """How the loss is scaled in precision mixed_float16. The rule is in `core.backend.training_rules`."""

    initial: Annotated[float, Field(ge=1.0, le=MOST_LOSS_SCALE)] = 65536.0
    factor: Annotated[float, Field(ge=1.0, le=256.0)] = 2.0
    growth_interval: Annotated[int, Field(ge=1, le=1_000_000)] = 2000

    @model_validator(mode="after")
    def _scales_exactly(self) -> Self:
        for key, value in (("initial", self.initial), ("factor", self.factor)):
            if math.frexp(value)[0] != 0.5:
                raise UserError(
                    f"training.loss_scale.{key} must be a power of two; received {value:g}",
                    "Other scales would round the gradients. Take 1024, for example.",
                )
        return self

    def rule(self) -> LossScaleRule:
        """Return the constants for the backends."""
        return LossScaleRule(self.initial, self.factor, self.growth_interval)


def _with_fixed_scale(scale: Any) -> Any:
    """Turn a number alone into a scale that does not change."""
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    return {"initial": scale, "factor": 1.0} if is_number else scale


class EarlyStop(Strict):
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    The default is `validation_loss` because Dice misleads in the first epochs. A network that predicts empty
    masks only scores the all-negative baseline (0.78 on the competition's data). A network that has begun to
    learn scores less.
    """

    monitor: Literal["validation_loss", "dice", "dice_positive", "auroc"] = "validation_loss"
    patience: Annotated[int, Field(ge=1)] = 15
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    enabled: bool = True


class Training(Strict):
    """The section `training`: how the network is trained.

    `size` is the height and width to which the data file's images are reduced; None takes them as they are.
    `stages` are changes of the other keys (`core.experiment.stages`), and `stage` is the number of the
    current one.
    """

    size: Annotated[int, Field(ge=1, le=65535)] | None = None
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    shards: Annotated[int, Field(ge=1, le=65536)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Precision = "float32"
    loss_scale: Annotated[LossScale, BeforeValidator(_with_fixed_scale)] = LossScale()
    start_from: str | None = None
    validation_fraction: Annotated[float, Field(ge=0.0, le=0.9)] = 0.2
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    optimizer: Optimizer = Adam()
    schedule: Schedule = ConstantSchedule()
    freeze: tuple[str, ...] = ()
    rates: dict[str, Annotated[float, Field(gt=0.0, le=100.0)]] = Field(default_factory=dict)
    loss: Loss = Loss()
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    sampling: SamplingSettings | None = None
    augmentation: AugmentationSettings = AugmentationSettings()
    crop: CropSettings | None = None
    dropout_masks: Literal["host", "device"] = "host"
    early_stop: EarlyStop = EarlyStop()
    average_best: Annotated[int, Field(ge=0, le=100)] = 0
    ema: AverageSettings | None = None
    stages: tuple[dict[str, Any], ...] = ()
    stage: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _stage_is_one_of_stages(self) -> Self:
        if self.stage is not None and self.stage > len(self.stages):
            raise UserError(f"training.stage is {self.stage}, but there are {len(self.stages)} stages")
        for number, changes in enumerate(self.stages):
            if fixed := [key for key in FIXED_KEYS if key in changes]:
                raise UserError(
                    f"training.stages[{number}].{fixed[0]}: this key is the same in all stages",
                    f"Set training.{fixed[0]}.",
                )
        return self

    @model_validator(mode="after")
    def _fold_is_one_of_folds(self) -> Self:
        if self.fold is not None and (self.folds is None or self.fold >= self.folds):
            raise UserError(
                f"training.fold must be one of the folds, from 0 to training.folds - 1; "
                f"received fold={self.fold}, folds={self.folds}"
            )
        return self

    @model_validator(mode="after")
    def _has_an_image_for_each_shard(self) -> Self:
        if self.shards > self.batch_size:
            raise UserError(
                f"training.shards is {self.shards}, but a batch has {self.batch_size} images "
                "(training.batch_size)",
                "Each shard needs at least one image.",
            )
        return self

    @model_validator(mode="after")
    def _averages_once(self) -> Self:
        if self.ema is not None and self.average_best > 1:
            raise UserError(
                f"training.ema and training.average_best={self.average_best} both average the weights",
                "Choose one of them: leave ema out, or set training.average_best=0.",
            )
        return self

    @property
    def draws_seed(self) -> int:
        """The seed of all that is drawn while the network is trained; it is another one in each stage."""
        if self.stage is None or self.stage == 1:
            return self.seed
        return int(words(self.seed, "stage", self.stage, count=1)[0] >> np.uint64(1))

    def rules(self) -> TrainingRules:
        """Return the arithmetic of this training, with constants rounded to float32 for the backends."""
        return TrainingRules(
            loss=self.loss.rule(),
            optimizer=self.optimizer.rule(),
            clip_norm=None if self.clip_norm is None else to_float32(self.clip_norm),
            seed=self.draws_seed,
            frozen=self.freeze,
            rates=tuple(self.rates.items()),
            average_decay=None if self.ema is None else self.ema.decay,
            loss_scale=self.loss_scale.rule() if self.precision == "mixed_float16" else None,
        )


class Configuration(Strict):
    """A whole configuration: the network, and how it is trained."""

    network: Network
    training: Training = Training()

    @model_validator(mode="after")
    def _weighs_a_head_that_is_there(self) -> Self:
        if self.training.loss.existence is not None and self.network.existence is None:
            raise UserError(
                "training.loss.existence: the network has no existence head",
                "Add network.existence={}, or leave this weight out.",
            )
        return self

    @model_validator(mode="after")
    def _names_blocks(self) -> Self:
        divide_blocks(self.training.freeze, list(self.training.rates), self.network.block_names())
        return self

    @model_validator(mode="after")
    def _has_stages_that_are_right(self) -> Self:
        if self.training.stage is None:
            self.in_stages()
        return self

    def in_stages(self) -> tuple[Configuration, ...]:
        """Return the configuration of each stage; this one, if there are no stages.

        Raises:
            UserError: A stage is wrong; there is one line for each wrong key.
        """
        if not self.training.stages:
            return (self,)
        network = self.network
        found = []
        for number, content in enumerate(stage_contents(self.training.model_dump())):
            try:
                training = Training.model_validate(content)
                found.append(Configuration(network=network, training=training))
            except ValidationError as error:
                raise UserError("\n  ".join(_explain_in_stage(error, number))) from error
            except UserError as error:
                raise UserError(f"training.stages[{number}]: {error.message}", error.hint) from error
        return tuple(found)

    def training_plan(self, height: int, width: int) -> Plan:
        """Return the plan that is trained, for crops if there are any.

        Args:
            height: Rows of the training images.
            width: Columns of the training images.

        Raises:
            UserError: The images are smaller than the crops, or the network does not take either.
        """
        plan, crop = lower(self.network, height, width), self.training.crop
        if crop is None:
            return plan
        if crop.size > min(height, width):
            raise UserError(
                f"training.crop.size: {crop.size}, but the images have only {height}x{width}",
                "Choose smaller crops, or preprocess with a larger --size.",
            )
        try:
            return lower(self.network, crop.size, crop.size)
        except UserError as error:
            raise UserError(
                f"training.crop.size: {crop.size}: {error.message}",
                "It must be a multiple of the network's largest reduction.",
            ) from error


def load_configuration(path: Path, overrides: Sequence[str] = ()) -> Configuration:
    """Read a YAML file, set the keys in `overrides`, and validate the result.

    Args:
        path: The file. If there is none, `fcn` and `configs/fcn.yaml` are names of shipped configurations.
        overrides: Each "key.path=value", as given to `--set`. The value is YAML.

    Raises:
        UserError: The file is missing or not YAML, a key is unknown, or a value is out of its range.
    """
    found = _find_file(path)
    with explain_os_errors(found, "read"):
        text = found.read_text(encoding="utf-8-sig", errors="replace")
    try:
        content = yaml.safe_load(text)
    except _NOT_YAML as error:
        raise UserError(f"{found}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{found}: expected the keys 'network' and 'training'; received {content!r}")
    configuration = parse_configuration(content, overrides, source=str(found))
    if configuration.training.stage is not None:
        raise UserError(f"{found}: training.stage is set by the toolkit alone", "Leave it out.")
    return configuration


def parse_configuration(
    content: dict[str, Any], overrides: Sequence[str] = (), source: str = "configuration"
) -> Configuration:
    """Set the keys in `overrides` in a configuration of plain dictionaries, and validate the result."""
    _refuse_contradictions(overrides)
    for override in sorted(overrides, key=lambda override: override.startswith("training.stages")):
        _set_key(content, override)
        _set_in_stages(content, override)
    origin = f"{source} with {', '.join(overrides)}" if overrides else source
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        known = known_keys()
        lines = [explain_error(item, known) for item in error.errors(include_url=False)]
        raise UserError(f"{origin}: " + "\n  ".join(lines)) from error
    except UserError as error:
        raise UserError(f"{origin}: {error.message}", error.hint) from error


def known_keys() -> list[Key]:
    """Return every key that a configuration may have, of all kinds of blocks, optimisers and schedules."""
    keys = keys_of_schema(Configuration.model_json_schema())
    of_stages = [key[1:] for key in keys if key[0] == "training" and key[1:2] and key[1] not in FIXED_KEYS]
    return [*keys, *(("training", "stages", None, *key) for key in of_stages)]


def description(path: Path) -> str:
    """Return the first sentence of the comment at the beginning of a configuration's file, or ""."""
    with explain_os_errors(path, "read"):
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    comment = " ".join(line.lstrip("# ").rstrip() for line in itertools.takewhile(_is_comment, lines))
    return re.split(r"(?<=\.)\s", comment, maxsplit=1)[0]


def as_yaml(configuration: Configuration) -> str:
    """Return YAML with every key, which `load_configuration` reads back to an equal configuration."""
    content = _name_first(configuration.model_dump(mode="json"))
    for block in content["network"]["blocks"]:
        for key in [key for key, value in block.items() if value is None]:
            del block[key]
    # `None` writes a mapping or list on one line if it holds no other mapping or list.
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


def _name_first(node: Any) -> Any:
    """Return the same content with `name` and `kind` before the other keys."""
    if isinstance(node, list):
        return [_name_first(one) for one in node]
    if not isinstance(node, dict):
        return node
    keys = sorted(node, key=lambda key: {"name": 0, "kind": 1}.get(key, 2))
    return {key: _name_first(node[key]) for key in keys}


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _find_file(path: Path) -> Path:
    for candidate in (path, FOLDER.parent / path, FOLDER / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(f"configs/{file.name}" for file in shipped_configurations().values())
    raise UserError(f"no configuration file {path}", f"The toolkit's own: {known}")


def _refuse_contradictions(overrides: Sequence[str]) -> None:
    """Refuse two values for one key. A section, and a key in it, may both be set."""
    values: dict[str, str] = {}
    for key, _, value in (override.partition("=") for override in overrides):
        if values.setdefault(key, value) != value:
            raise UserError(f"{key} is set to {values[key]} and to {value}", "Give one of them.")


def _set_in_stages(content: Mapping[str, Any], override: str) -> None:
    """Set a key of `training` also in the stages that would change it: an override holds in all of them."""
    training = content.get("training")
    stages = training.get("stages") if isinstance(training, Mapping) else None
    section, first, *_ = [*re.split(r"[.=]", override, maxsplit=2), ""]
    if section == "training" and isinstance(stages, list | tuple):
        for changes in stages:
            if isinstance(changes, dict) and first in changes:
                _set_key({"training": changes}, override)


def _explain_in_stage(error: ValidationError, number: int) -> list[str]:
    """Return one line for each wrong key of a stage."""
    known, stage = known_keys(), ("training", "stages", number)
    items: list[dict[str, Any]] = [dict(item) for item in error.errors(include_url=False)]
    return [explain_error({**item, "loc": (*stage, *item["loc"])}, known) for item in items]


def _set_key(content: dict[str, Any], override: str) -> None:
    """Set the key that "key.path=value" names."""
    path, equals, text = override.partition("=")
    found = [part for part in re.split(r"[.\[\]]+", path) if part]
    parts = [int(part) if re.fullmatch(r"[0-9]{1,9}", part) else part for part in found]
    if not equals or not parts:
        raise UserError(f"--set {override}: expected key.path=value, as in training.epochs=3")
    try:
        value = yaml.safe_load(text)
    except _NOT_YAML as error:
        raise UserError(f"--set {override[:200]}: the value is not valid YAML") from error
    here: Any = content
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if isinstance(part, int):
            if not isinstance(here, list) or part >= len(here):
                raise UserError(f"--set {override}: there is no {key_path(parts[: index + 1])}")
        elif not isinstance(here, dict):
            raise UserError(f"--set {override}: {key_path(parts[:index])} has no keys")
        if last:
            here[part] = value
        else:
            here = here[part] if isinstance(part, int) else here.setdefault(part, {})
