"""Sizes that networks take: the nearest one to a multiple of the size."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.experiment.configuration import load_configuration
from core.network.sizes import scaled_size, takes


@pytest.mark.parametrize(
    ("name", "reduction"), [("fcn", 8), ("unet", 16), ("unet_resnet34", 32), ("unet_efficientnet_lite0", 32)]
)
def test_a_scaled_size_is_the_nearest_multiple_of_the_reduction(name: str, reduction: int) -> None:
    network = load_configuration(Path(name)).network
    assert takes(network, 6 * reduction, 9 * reduction)
    assert not takes(network, 6 * reduction + reduction // 2, 9 * reduction)
    for scale in (0.49, 0.75, 1.0, 1.3):
        found = scaled_size(network, 6 * reduction, 9 * reduction, scale)
        assert found == tuple(int(sides * scale + 0.5) * reduction for sides in (6, 9))
        assert takes(network, *found)
