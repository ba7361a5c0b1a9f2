"""One run's settings: the network and how it is trained, from YAML and the command line.

Promises: what `load_configuration` returns is complete and valid; anything else is a `UserError` whose
lines give the path of each bad key (`training.optimizer.beta1`), what was received and what is
allowed. `configs/*.yaml` are read from the toolkit's own folder when no such file is nearer.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from core.backend.contract import Precision
from core.backend.training_rules import AdamRule, LossRule, OptimizerRule, SgdRule, TrainingRules
from core.base.errors import UserError
from core.base.rounding import to_float32
from core.experiment.recipe import Augmentation, ConstantSchedule, Sampling, Schedule
from core.experiment.shipped_configurations import FOLDER, own_configurations
from core.files.system_errors import explain_os_errors
from core.network.specification import Network, Strict

# PyYAML lets Python's own errors through where a date or a number is impossible, or nesting too deep.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)

Weight = Annotated[float, Field(ge=0.0, le=1e6)]
# 1 - b must be exact in float32 (core.base.rounding), hence the lower bound.
Beta = Annotated[float, Field(ge=0.5, lt=1.0)]


Decay = Annotated[float, Field(ge=0.0, le=1.0)]


class _Optimizer(Strict):
    """What every optimiser has; the formulas are in `core.backend.training_rules`."""

    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1e-3
    weight_decay: Decay = 0.0


class _Adaptive(_Optimizer):
    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-7

    def rule(self) -> OptimizerRule:
        """The constants, rounded for the backends."""
        return AdamRule(to_float32(self.beta1), to_float32(self.beta2), to_float32(self.epsilon))


class Adam(_Adaptive):
    """Adam, with decoupled weight decay on kernels if asked."""

    name: Literal["adam"] = "adam"


class AdamW(_Adaptive):
    """The same arithmetic, with weight decay unless it is switched off."""

    name: Literal["adamw"] = "adamw"
    weight_decay: Decay = 0.01


class Sgd(_Optimizer):
    """Stochastic gradient descent with momentum, plain or Nesterov's."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 1e-2
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    nesterov: bool = False

    def rule(self) -> OptimizerRule:
        """The constants, rounded for the backends."""
        return SgdRule(to_float32(self.momentum), self.nesterov)


def _named(optimizer: Any) -> Any:
    """Adam where no name is given."""
    return {"name": "adam", **optimizer} if isinstance(optimizer, dict) else optimizer


Optimizer = Annotated[Adam | AdamW | Sgd, Field(discriminator="name"), BeforeValidator(_named)]


class Loss(Strict):
    """Weights and constants of the parts of the loss: see `core.backend.training_rules`."""

    bce: Weight = 1.0
    dice: Weight = 1.0
    focal: Weight = 0.0
    focal_gamma: Annotated[float, Field(ge=0.0, le=10.0)] = 2.0
    tversky: Weight = 0.0
    tversky_alpha: Weight = 0.3
    tversky_beta: Weight = 0.7
    lovasz: Weight = 0.0

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
        """The weights and constants, rounded for the backends."""
        return LossRule(**{name: to_float32(value) for name, value in self})


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
    precision: Precision = "float32"
    validation_fraction: Annotated[float, Field(ge=0.0, le=0.9)] = 0.2
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    optimizer: Optimizer = Adam()
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

    def rules(self) -> TrainingRules:
        """The arithmetic of this training, rounded for the backends."""
        return TrainingRules(
            loss=self.loss.rule(),
            optimizer=self.optimizer.rule(),
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
    with explain_os_errors(found, "read"):
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
    _refuse_contradictions(overrides)
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
        path += f"[{part}]" if isinstance(part, int) else part if part == "[N]" else f".{part}"
    return path.lstrip(".")


def description(path: Path) -> str:
    """What a configuration is for: the first sentence of the comment that its file begins with; or ""."""
    with explain_os_errors(path, "read"):
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    comment = " ".join(line.lstrip("# ").rstrip() for line in itertools.takewhile(_is_comment, lines))
    return re.split(r"(?<=\.)\s", comment, maxsplit=1)[0]


def as_yaml(configuration: Configuration) -> str:
    """The whole configuration with every key, as a file that `load_configuration` reads to the same."""
    content = _name_first(configuration.model_dump(mode="json"))
    for block in content["network"]["blocks"]:
        for key in [key for key, value in block.items() if value is None]:
            del block[key]
    # None: one line for what holds no other mapping or list, as people write it.
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)


def _name_first(node: Any) -> Any:
    """The same content with `name` and `kind` before other keys."""
    if isinstance(node, list):
        return [_name_first(one) for one in node]
    if not isinstance(node, dict):
        return node
    keys = sorted(node, key=lambda key: {"name": 0, "kind": 1}.get(key, 2))
    return {key: _name_first(node[key]) for key in keys}


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _find(path: Path) -> Path:
    for candidate in (path, FOLDER.parent / path, FOLDER / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(f"configs/{file.name}" for file in own_configurations().values())
    raise UserError(f"no configuration file {path}", f"The toolkit's own: {known}")


def _refuse_contradictions(overrides: Sequence[str]) -> None:
    """Refuse two values for one key; a section and a key in it are set one after the other."""
    values: dict[str, str] = {}
    for key, _, value in (override.partition("=") for override in overrides):
        if values.setdefault(key, value) != value:
            raise UserError(f"{key} is set to {values[key]} and to {value}", "Give one of them.")


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


# Where one key decides which others there are, pydantic puts its value into an error's location (before
# it stands "optimizer", or the number of a block); the user's file has no such level.
_CHOICES = {
    "blocks": ("conv", "pointwise", "transpose", "output"),
    "optimizer": ("adam", "adamw", "sgd"),
    "schedule": ("constant", "step", "cosine", "plateau"),
}


def _explain(item: Any) -> str:
    location, chosen = _without_choices(item["loc"])
    path = key_path(location)
    if item["type"] == "extra_forbidden":
        known = known_keys()
        if any(_is_at(other, location) for other in known):
            return f"{path}: not a key of {chosen!r}"
        meant = " or ".join(f"'{other}'" for other in _meant(location, known))
        return f"{path}: unknown key" + (f"; did you mean {meant}?" if meant else "")
    if item["type"] == "missing":
        return f"{path}: missing"
    if item["type"].startswith("union_tag"):
        context = item["ctx"]
        path = f"{path}.{context['discriminator'].strip(chr(39))}"
        if item["type"] == "union_tag_not_found":
            return f"{path}: missing"
        return f"{path}: received {context['tag']!r}; expected one of {context['expected_tags']}"
    return f"{path}: {item['msg']}; received {item['input']!r}"


def _without_choices(location: Sequence[str | int]) -> tuple[list[str | int], str | None]:
    """The location as the user's file has it, and the innermost choice made on the way."""
    shown: list[str | int] = []
    chosen = None
    for before, part in zip([None, *location], location, strict=False):
        if part in _CHOICES.get("blocks" if isinstance(before, int) else str(before), ()):
            chosen = str(part)
        else:
            shown.append(part)
    return shown, chosen


Key: TypeAlias = tuple[str | None, ...]
"""The path of a key of any configuration: ("network", "blocks", None, "skip"), None being any block."""

_ALIASES = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "optim": "optimizer"}
_LEAST_LIKENESS, _SAME_SECTION, _MOST_MEANT = 0.6, 0.1, 3


def known_keys() -> list[Key]:
    """Every key that a configuration may have, whichever blocks, optimiser and schedule it chooses."""
    schema = Configuration.model_json_schema()
    keys: dict[Key, None] = {}

    def collect(node: Any, path: Key) -> None:
        if "$ref" in node:
            collect(schema["$defs"][node["$ref"].rpartition("/")[2]], path)
        for choice in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            collect(choice, path)
        if isinstance(node.get("items"), dict):
            collect(node["items"], (*path, None))
        for name, value in node.get("properties", {}).items():
            key: Key = (*path, name)
            keys[key] = None
            collect(value, key)

    collect(schema, ())
    return list(keys)


def _is_at(key: Key, location: Sequence[str | int]) -> bool:
    """Whether a key is the one at a location; any block is any block."""
    return len(key) == len(location) and _common(key, location) == len(key)


def _common(key: Key, location: Sequence[str | int]) -> int:
    """The number of first parts that a key and a location have in common."""
    same = 0
    for part, other in zip(key, location, strict=False):
        if not (part == other or (part is None and isinstance(other, int))):
            break
        same += 1
    return same


def _meant(location: Sequence[str | int], known: Sequence[Key]) -> list[str]:
    """The paths of the keys that were probably meant: those of the most similar name, nearest in place."""
    name = str(location[-1]).lower()
    name = _ALIASES.get(name, name)

    def likeness(key: Key) -> float:
        found = difflib.SequenceMatcher(None, name, str(key[-1])).ratio()
        return found + _SAME_SECTION * _is_at((*key[:-1], None), (*location[:-1], 0)) * (found < 1)

    likenesses = {key: likeness(key) for key in known}
    best = max(likenesses.values())
    if best < _LEAST_LIKENESS:
        return []
    alike = [key for key in known if likenesses[key] == best]
    depth = max(_common(key[:-1], location) for key in alike)
    nearest = [key for key in alike if _common(key[:-1], location) == depth][:_MOST_MEANT]
    return [
        key_path([*location[:depth], *("[N]" if p is None else p for p in key[depth:])]) for key in nearest
    ]
