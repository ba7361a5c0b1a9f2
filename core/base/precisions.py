"""The names of the precisions that models have, without an import, for command lines and completion.

`core.backend.contract` says what they mean.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Precision: TypeAlias = Literal["float32", "float64", "tf32", "mixed_bfloat16", "mixed_float16"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""All of them, in the order in which people read them."""
