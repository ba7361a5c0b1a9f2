"""The conformance suite on every backend under test; none may refuse.

Left out, unless PNEUMOSEG_CHECKS is "all", is what takes long and what other checks come upon too: in float64
the convolutions one by one (they are checked in float32, and float64 in networks), most random networks,
and the largest whole one; and float32 on the largest images. `.ci/run` leaves nothing out.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from core.conformance import Check, all_checks, examine
from core.isolation import Isolated

LONG = re.compile(
    r"((transposed )?convolution|output block): kernel .*\(float64\)"
    r"|random networks: number ([4-9]|\d\d) .*"
    r"|whole networks: unet, ten .*"
)


def chosen() -> list[Any]:
    """The checks to run."""
    left_out = {str(check) for check in all_checks() if LONG.fullmatch(str(check))}
    assert len(left_out) == 60 + 20 + 1  # so that a check that is renamed is not run in silence, nor left out
    if os.environ.get("PNEUMOSEG_CHECKS") == "all":
        # The judge takes minutes of some.
        return [pytest.param(check, marks=pytest.mark.timeout(1800)) for check in all_checks(large=True)]
    return [check for check in all_checks() if str(check) not in left_out]


@pytest.mark.parametrize("check", chosen(), ids=str)
def test_conformance(remote: Isolated, check: Check) -> None:
    outcome = examine(check, remote)
    assert outcome.status == "passed", outcome.detail
