"""Keys of a configuration: their paths, all that there are, and messages about wrong ones.

A message gives the whole path of the key (`training.optimizer.beta1`), what was received and what is allowed.
For an unknown key it suggests the keys that were probably meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Key: TypeAlias = tuple[str | None, ...]
"""The path of a key that a configuration may have: ("network", "blocks", None, "skip"). None is any block."""

_ALIASES = {"lr": "learning_rate", "wd": "weight_decay", "bs": "batch_size", "optim": "optimizer"}
_LEAST_SIMILARITY, _SAME_SECTION_BONUS, _MOST_SUGGESTIONS = 0.6, 0.1, 3

# Some sections have a key whose value decides which other keys are allowed. Pydantic puts that value into an
# error's location, after "optimizer" or the number of a block. The user's file has no such level.
_CHOICES = {
    "blocks": ("conv", "pointwise", "transpose", "residual", "pool", "upsample", "output"),
    "optimizer": ("adam", "adamw", "sgd"),
    "schedule": ("constant", "step", "cosine", "plateau"),
}


_MESSAGES = {
    "valid tuple": "Input should be a list, as in [a, b]",
    "valid dictionary": "Input should be keys and values, as in {key: value}",
}
"""What pydantic says of the types of Python, and the same in words of YAML."""


def key_path(location: Iterable[str | int]) -> str:
    """Write ("network", "blocks", 3, "skip") as network.blocks[3].skip."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else part if part == "[N]" else f".{part}"
    return path.lstrip(".")


def keys_of_schema(schema: Mapping[str, Any]) -> list[Key]:
    """Return every key that a JSON schema of pydantic allows, of all alternatives."""
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


def explain_error(item: Any, known: Sequence[Key]) -> str:
    """Return the message for one of pydantic's errors.

    Args:
        item: An entry of `ValidationError.errors()`.
        known: All keys that a configuration may have.
    """
    location, chosen = _without_choices(item["loc"])
    path = key_path(location)
    if item["type"] == "extra_forbidden":
        if any(_is_at(other, location) for other in known):
            return f"{path}: not a key of {chosen!r}"
        meant = " or ".join(f"'{other}'" for other in _suggestions(location, known))
        return f"{path}: unknown key" + (f"; did you mean {meant}?" if meant else "")
    if item["type"] == "missing":
        return f"{path}: missing"
    if item["type"].startswith("union_tag"):
        context = item["ctx"]
        path = f"{path}.{context['discriminator'].strip(chr(39))}"
        if item["type"] == "union_tag_not_found":
            return f"{path}: missing"
        return f"{path}: received {context['tag']!r}; expected one of {context['expected_tags']}"
    message = next((ours for theirs, ours in _MESSAGES.items() if theirs in item["msg"]), item["msg"])
    return f"{path}: {message}; received {item['input']!r}"


def _without_choices(location: Sequence[str | int]) -> tuple[list[str | int], str | None]:
    """Return the location as the user's file has it, and the last of the values that pydantic added."""
    shown: list[str | int] = []
    chosen = None
    for before, part in zip([None, *location], location, strict=False):
        if part in _CHOICES.get("blocks" if isinstance(before, int) else str(before), ()):
            chosen = str(part)
        else:
            shown.append(part)
    return shown, chosen


def _is_at(key: Key, location: Sequence[str | int]) -> bool:
    """Whether a key is the one at a location; None in the key matches the number of any block."""
    return len(key) == len(location) and _common_parts(key, location) == len(key)


def _common_parts(key: Key, location: Sequence[str | int]) -> int:
    """Count the first parts that a key and a location have in common."""
    same = 0
    for part, other in zip(key, location, strict=False):
        if not (part == other or (part is None and isinstance(other, int))):
            break
        same += 1
    return same


def _is_in_stage(location: Sequence[str | int | None]) -> bool:
    """Whether a key is in one of the stages, where all keys of `training` are once more."""
    return tuple(location[:2]) == ("training", "stages") and len(location) > 2


def _suggestions(location: Sequence[str | int], known: Sequence[Key]) -> list[str]:
    """Return the paths of the keys that were probably meant.

    These are the keys with the most similar name. Of several, those in the nearest section are taken.
    """
    name = str(location[-1]).lower()
    name = _ALIASES.get(name, name)
    in_stage = _is_in_stage(location)
    known = [key for key in known if _is_in_stage(key) == in_stage]

    def similarity(key: Key) -> float:
        found = difflib.SequenceMatcher(None, name, str(key[-1])).ratio()
        return found + _SAME_SECTION_BONUS * _is_at((*key[:-1], None), (*location[:-1], 0)) * (found < 1)

    similarities = {key: similarity(key) for key in known}
    best = max(similarities.values())
    if best < _LEAST_SIMILARITY:
        return []
    similar = [key for key in known if similarities[key] == best]
    depth = max(_common_parts(key[:-1], location) for key in similar)
    nearest = [key for key in similar if _common_parts(key[:-1], location) == depth][:_MOST_SUGGESTIONS]
    return [
        key_path([*location[:depth], *("[N]" if p is None else p for p in key[depth:])]) for key in nearest
    ]
