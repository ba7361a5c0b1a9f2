"""EfficientNet-lite0 with its real ImageNet weights names a picture right, in the neutral specification.

The picture is matplotlib's portrait of Rear Admiral Grace Hopper, in shades of grey; class 652 of ImageNet is
"military uniform".
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selected import BACKENDS

from core.backend.contract import Implementation
from core.backend.process import BackendProcess
from core.backend.registry import load_backend
from core.backend.state import initial_state
from core.experiment.configuration import Training
from core.network.lowering import lower_blocks
from core.network.specification import Network
from core.weights.files import find_file, read_layers
from core.weights.transfer import fit

MILITARY_UNIFORM = 652
RULES = Training().rules()
TOP = {"bias": False, "order": "norm_activation", "activation": "relu6"}
BLOCKS = [
    {"name": "encoder_top", "kind": "pointwise", "filters": 1280, **TOP},
    {"name": "mean", "kind": "pool", "mode": "average", "kernel": 7, "stride": 7, "padding": "valid"},
    {"name": "mask", "kind": "output", "kernel": 1, "stride": 1, "transposed": False},
]


def portrait() -> NDArray[np.float32]:
    """Return (1, 224, 224, 1) in [0, 1]."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    image = Image.open(path).convert("L").resize((224, 224), Image.Resampling.BICUBIC)
    return (np.asarray(image, np.float32) / 255)[np.newaxis, :, :, np.newaxis]


def classes_by_its_authors(implementation: Implementation, weights: Path) -> NDArray[np.float32]:
    """Return the logits of all 1,000 classes that a PyTorch module computes."""
    del implementation
    import torch
    from torch_modules import EfficientNetLite0

    network = EfficientNetLite0().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    x = (np.repeat(portrait(), 3, axis=-1) - 127 / 255) / (128 / 255)
    with torch.no_grad():
        stages = network.stages(torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float32)))
        return np.asarray(network.logits(stages[-1])[0].numpy())


@pytest.mark.skipif("torch" not in BACKENDS, reason="PNEUMOSEG_BACKENDS leaves PyTorch out")
def test_a_picture_is_named_as_by_the_authors_network() -> None:
    source = find_file("efficientnet_lite0")
    with BackendProcess("torch") as process:
        theirs = process.call(classes_by_its_authors, source)
    assert int(np.argmax(theirs)) == MILITARY_UNIFORM
    network = Network.model_validate(
        {
            "encoder": {"kind": "efficientnet_lite0"},
            "input": {"channels": 3, "mean": [127 / 255], "std": [128 / 255]},
            "batch_norm_settings": {"momentum": 0.99, "epsilon": 1e-3},
            "blocks": BLOCKS,
        }
    )
    plan = lower_blocks(network, 224, 224)
    layers = read_layers(source)
    found, classes = fit(plan, layers), layers["_fc"]
    assert "encoder_top" in found.blocks
    model = load_backend("reference")[1].compile(plan, RULES, "cpu", "float32")
    # The network has one output: that of one class at a time.
    for number in (MILITARY_UNIFORM, int(np.argsort(theirs)[-2]), int(np.argmin(theirs))):
        state = initial_state(plan, RULES, 0) | found.arrays
        state["mask/kernel"] = np.ascontiguousarray(classes["kernel"][..., number : number + 1])
        state["mask/bias"] = classes["bias"][number : number + 1]
        model.load_state(state)
        probability = float(model.predict(portrait())[0, 0, 0, 0])
        assert np.log(probability / (1 - probability)) == pytest.approx(float(theirs[number]), abs=1e-3)
