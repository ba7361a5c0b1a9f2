"""The meaning of `--device` on machines with and without GPUs."""

from __future__ import annotations

import pytest

from core.backend.devices import choose_device
from core.base.errors import UserError

ONE, NONE, TWO = ["cpu", "gpu:0"], ["cpu"], ["cpu", "gpu:0", "gpu:1"]


@pytest.mark.parametrize(
    ("request_", "available", "chosen"),
    [
        ("auto", NONE, "cpu"),
        ("auto", TWO, "gpu:0"),
        ("cpu", TWO, "cpu"),
        ("gpu", ONE, "gpu:0"),
        ("gpu:1", TWO, "gpu:1"),
        ("cuda", TWO, "gpu:0"),
        ("cuda:0", ONE, "gpu:0"),
        ("cuda:1", TWO, "gpu:1"),
    ],
)
def test_the_device_asked_for(request_: str, available: list[str], chosen: str) -> None:
    assert choose_device(request_, available, "TensorFlow") == chosen


@pytest.mark.parametrize(
    ("request_", "available"),
    [("gpu", NONE), ("gpu:1", ONE), ("gpu:10", TWO), ("cuda", NONE), ("cuda:2", TWO)],
)
def test_a_gpu_that_is_not_there_is_an_error(request_: str, available: list[str]) -> None:
    with pytest.raises(UserError, match=f"--device {request_}: TensorFlow sees no such device; it sees: cpu"):
        choose_device(request_, available, "TensorFlow")


@pytest.mark.parametrize(
    "request_", ["", "tpu", "gpu:", "gpu:-1", "gpu:0 ", "GPU", "cpu:0", "gpu:0\n", "cuda:", "cuda:x", "cuda0"]
)
def test_what_is_not_understood_is_an_error(request_: str) -> None:
    with pytest.raises(UserError, match="expected auto, cpu, gpu or gpu:N"):
        choose_device(request_, TWO, "TensorFlow")
