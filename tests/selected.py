"""The backends under test.

The environment variable PNEUMOSEG_BACKENDS names them ("tf,onnx", at least one that trains), or names those
to leave out ("-mxnet,-jax"). A backend that was not left out and cannot be used fails its tests; they are
never skipped.
"""

from __future__ import annotations

import os

TRAINING = ("tf", "mxnet", "torch", "jax")
PREDICTING = ("onnx",)


def selected(words: str) -> tuple[list[str], list[str]]:
    """Return the selected backends that train, and all selected backends.

    Raises:
        ValueError: A name is unknown, names with and without "-" are mixed, or no training backend is left.
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
