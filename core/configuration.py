"""One run's settings: the network and how it is trained, from YAML and the command line.

Promises: what `load_configuration` returns is complete and valid; anything else is a `UserError` whose
lines give the path of each bad key (`training.optimizer.beta1`), what was received and what is
allowed. `configs/*.yaml` are read from the toolkit's own folder when no such file is nearer.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from typing_extensions import Self

from core.errors import UserError
from core.files import explained
from core.recipe import Augmentation, ConstantSchedule, Sampling, Schedule
from core.rounding import to_float32
from core.rules import AdamRule, LossRule, Rules
from core.specification import Network, Strict

# PyYAML lets Python's own errors through where a date or a number is impossible, or nesting too deep.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)

Weight = Annotated[float, Field(ge=0.0, le=1e6)]
# 1 - b must be exact in float32 (core.rounding), hence the lower bound.
Beta = Annotated[float, Field(ge=0.5, lt=1.0)]


class Adam(Strict):
    """Adam, with decoupled weight decay on kernels: see `core.rules`."""

    name: Literal["adam"] = "adam"
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1e-3
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-7
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class Loss(Strict):
    """Weights of the parts of the loss: see `core.rules`."""

    bce: Weight = 1.0
    dice: Weight = 1.0
    focal: Weight = 0.0
    focal_gamma: Annotated[float, Field(ge=0.0, le=10.0)] = 2.0

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.bce == self.dice == self.focal == 0:
            raise UserError("training.loss: bce, dice and focal are all 0; there is nothing to minimise")
        return self


class EarlyStop(Strict):
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    `validation_loss` is the default because Dice is a trap while training is young: a network that
    draws nothing scores the all-empty floor (0.78 on the competition's data), more than one that has
    begun to learn.
    """

    monitor: Literal["validation_loss", "dice", "dice_positive"] = "validation_loss"
    patience: Annotated[int, Field(ge=1)] = 15
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    enabled: bool = True


class Training(Strict):
    """How the network is trained."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["float32", "float64"] = "float32"
    validation_fraction: Annotated[float, Field(ge=0.0, le=0.9)] = 0.2
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    optimizer: Adam = Adam()
    schedule: Schedule = ConstantSchedule()
    loss: Loss = Loss()
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    sampling: Sampling | None = None
    augmentation: Augmentation = Augmentation()
    dropout_masks: Literal["host", "device"] = "host"
    early_stop: EarlyStop = EarlyStop()
    average_best: Annotated[int, Field(ge=0, le=100)] = 0

    @model_validator(mode="after")
    def _fold_is_one_of_folds(self) -> Self:
        if self.fold is not None and (self.folds is None or self.fold >= self.folds):
            raise UserError(
                f"training.fold must be one of the folds, from 0 to training.folds - 1; "
                f"received fold={self.fold}, folds={self.folds}"
            )
        return self

    def rules(self) -> Rules:
        """The arithmetic of this training, rounded for the backends."""
        return Rules(
            loss=LossRule(
                bce=to_float32(self.loss.bce),
                dice=to_float32(self.loss.dice),
                focal=to_float32(self.loss.focal),
                focal_gamma=to_float32(self.loss.focal_gamma),
            ),
            optimizer=AdamRule(
                beta1=to_float32(self.optimizer.beta1),
                beta2=to_float32(self.optimizer.beta2),
                epsilon=to_float32(self.optimizer.epsilon),
            ),
            clip_norm=None if self.clip_norm is None else to_float32(self.clip_norm),
            seed=self.seed,
        )


class Configuration(Strict):
    """A whole run."""

    network: Network
    training: Training = Training()


def load_configuration(path: Path, overrides: Sequence[str] = ()) -> Configuration:
    """Read a YAML file, change the keys that `overrides` set, and validate the result.

    Args:
        path: The file; a name like `fcn` or `configs/fcn.yaml` is also looked for among the toolkit's own.
        overrides: "key.path=value" as given to `--set`; values are YAML.

    Raises:
        UserError: The file is missing or not YAML, or a key is unknown or out of its range.
    """
    found = _find(path)
    with explained(found, "read"):
        text = found.read_text(encoding="utf-8-sig", errors="replace")
    try:
        content = yaml.safe_load(text)
    except _NOT_YAML as error:
        raise UserError(f"{found}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{found}: expected the keys 'network' and 'training'; received {content!r}")
    return parse_configuration(content, overrides, source=str(found))


def parse_configuration(
    content: dict[str, Any], overrides: Sequence[str] = (), source: str = "configuration"
) -> Configuration:
    """Validate a configuration given as plain dictionaries, after `overrides`."""
    for override in overrides:
        _override(content, override)
    origin = f"{source} with {', '.join(overrides)}" if overrides else source
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors(include_url=False)]
        raise UserError(f"{origin}: " + "\n  ".join(lines)) from error
    except UserError as error:
        raise UserError(f"{origin}: {error.message}", error.hint) from error


def key_path(location: Iterable[str | int]) -> str:
    """("network", "blocks", 3, "skip") as network.blocks[3].skip."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


def _find(path: Path) -> Path:
    own = Path(__file__).resolve().parent.parent / "configs"
    candidates = [path, own.parent / path, own / f"{path}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(f"configs/{file.name}" for file in own.glob("*.yaml")))
    raise UserError(f"no configuration file {path}", f"The toolkit's own: {known}")


def _override(content: dict[str, Any], override: str) -> None:
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


def _explain(item: Any) -> str:
    # The discriminator of a block ("conv") is part of pydantic's location but not of the user's file.
    location = [
        part
        for before, part in zip([None, *item["loc"]], item["loc"], strict=False)
        if not (isinstance(before, int) and part in ("conv", "pointwise", "transpose", "output"))
        and not (before == "schedule" and part in ("constant", "step", "cosine", "plateau"))
    ]
    path = key_path(location)
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(location[-1]), _known_keys(), n=1)
        return f"{path}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
    if item["type"] == "missing":
        return f"{path}: missing"
    return f"{path}: {item['msg']}; received {item['input']!r}"


def _known_keys() -> list[str]:
    keys: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            keys.update(node.get("properties", {}))
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(Configuration.model_json_schema())
    return sorted(keys)
