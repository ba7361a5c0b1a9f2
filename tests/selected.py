"""The backends under test.

The environment variable PNEUMOSEG_BACKENDS names them, "tf,onnx", at least one that trains; or those of
all that the toolkit ships that are left out, "-mxnet,-jax". One that is not left out by its name and
cannot be used fails its tests; it never turns into a skip.
"""

from __future__ import annotations

import os

TRAINING = ("tf", "mxnet", "torch", "jax")
PREDICTING = ("onnx",)


def selected(words: str) -> tuple[list[str], list[str]]:
    """The backends that train, and all of them, that some words of the environment variable name.

    Raises:
        ValueError: A name is unknown, some words leave out and others do not, or none is left that trains.
    """
    shipped = [*TRAINING, *PREDICTING]
    named = [word.strip() for word in words.split(",") if word.strip()]
    names = [word.removeprefix("-") for word in named]
    out = [word.startswith("-") for word in named]
    if set(names) - set(shipped) or (any(out) and not all(out)):
        raise ValueError(f"PNEUMOSEG_BACKENDS={words}: expected some of {', '.join(shipped)}, or all with -")
    chosen = [name for name in shipped if (name in names) != any(out)] if named else shipped
    training = [name for name in chosen if name in TRAINING]
    if not training:
        raise ValueError(f"PNEUMOSEG_BACKENDS={words}: at least one of {', '.join(TRAINING)} is needed")
    return training, chosen


BACKENDS, PREDICTORS = selected(os.environ.get("PNEUMOSEG_BACKENDS", ""))
