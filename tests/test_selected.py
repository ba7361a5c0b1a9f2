"""Which backends the tests run on."""

from __future__ import annotations

import pytest
from selected import PREDICTING, TRAINING, selected

from core.backend.registry import backend_names, find_backend


def test_what_is_shipped_is_tested() -> None:
    shipped = {name for name in backend_names() if find_backend(name).implementation.startswith("backends.")}
    assert shipped - {"reference"} == {*TRAINING, *PREDICTING}
    assert all(find_backend(name).trains for name in TRAINING)
    assert not any(find_backend(name).trains for name in PREDICTING)


def test_backends_are_named_or_left_out_by_name() -> None:
    assert selected("") == ([*TRAINING], [*TRAINING, *PREDICTING])
    assert selected("mxnet, tf") == (["tf", "mxnet"], ["tf", "mxnet"])
    assert selected("-jax") == (["tf", "mxnet", "torch"], ["tf", "mxnet", "torch", "onnx"])
    for wrong in ("tensorflow", "tf,-jax", "onnx"):
        with pytest.raises(ValueError, match=f"PNEUMOSEG_BACKENDS={wrong}"):
            selected(wrong)
