"""Encoders and decoders from the literature, padding, refusals; today's configurations keep their plans."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from core.base.errors import UserError
from core.experiment.configuration import load_configuration
from core.network.encoders import stages_of
from core.network.lowering import lower, lower_blocks
from core.network.padding import pads_of
from core.network.specification import Encoder, Network

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
MASK: dict[str, Any] = {"name": "mask", "kind": "output", "kernel": 3, "stride": 1, "transposed": False}
# Of torchvision's ResNets, Cadene's SE-ResNeXt50 and EfficientNet-lite0, up to the last feature map.
PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "se_resnext50": 25_510_896,
    "efficientnet_lite0": 2_958_848,
}
CHANNELS = {
    "resnet18": (64, 64, 128, 256, 512),
    "resnet34": (64, 64, 128, 256, 512),
    "resnet50": (64, 256, 512, 1024, 2048),
    "se_resnext50": (64, 256, 512, 1024, 2048),
    "efficientnet_lite0": (16, 24, 40, 112, 320),
}
# SHA-256 of plans. The first five are those from before networks had more than four kinds of block.
PLANS = {
    "demo": ("21e52502aa2753d9", "10201044f75de513"),
    "fcn": ("5a27da3ea970b54f", "bddf9bf42e75ddc3"),
    "fcn64": ("1ba89bc67ae153a2", "e6a96204b84927d6"),
    "fcn_skip": ("67a5afc197ee661b", "c7be86709eb96247"),
    "siim": ("305c0137ba9325d3", "ce60902c07a4c441"),
    "unet": ("3f8373a0f1bba0b6", "3cb7402ce6111365"),
    "unet_efficientnet_lite0": ("21d3f5bd08c0dc1e", "acf01065cdde0173"),
    "unet_resnet34": ("5528c1926d692aa2", "6b671ccd722dbd36"),
    "unet_se_resnext50": ("2aa1c32ca42fb846", "5e507c2fab183a5d"),
}


def network(kind: str, **keys: Any) -> Network:
    content = {"encoder": {"kind": kind}, "decoder": {}, "input": {"channels": 3}, "blocks": [MASK]}
    return Network.model_validate(content | keys)


@pytest.mark.parametrize("kind", PARAMETERS)
def test_an_encoder_has_as_many_parameters_as_where_it_comes_from(kind: str) -> None:
    plan = lower(network(kind), 64, 96)
    own = [array.size for array in plan.parameters if array.name.startswith("encoder_")]
    assert sum(own) == PARAMETERS[kind]


@pytest.mark.parametrize("kind", PARAMETERS)
def test_each_stage_is_half_as_large_as_the_one_before(kind: str) -> None:
    plan = lower(network(kind), 128, 192)
    last = dict(plan.blocks)
    tensors = {op.output.name: op.output for op in plan.operations}
    found = [tensors[last[name]] for name in stages_of(Encoder(kind=kind))]  # type: ignore[arg-type]
    assert [(one.height, one.width) for one in found] == [(128 >> n, 192 >> n) for n in range(1, 6)]
    assert tuple(one.channels for one in found) == CHANNELS[kind]


@pytest.mark.parametrize("name", ["unet_resnet34", "unet_efficientnet_lite0", "unet_se_resnext50"])
@pytest.mark.parametrize("size", [256, 384])
def test_the_stages_of_a_configuration_at_its_sizes(name: str, size: int) -> None:
    configuration = load_configuration(CONFIGS / f"{name}.yaml").network
    assert configuration.encoder is not None
    plan = lower(configuration, size, size)
    blocks = dict(plan.blocks)
    tensors = {op.output.name: op.output for op in plan.operations}
    found = [tensors[blocks[stage]] for stage in stages_of(configuration.encoder)]
    assert [(one.height, one.width) for one in found] == [(size >> n, size >> n) for n in range(1, 6)]
    assert tuple(one.channels for one in found) == CHANNELS[configuration.encoder.kind]
    decoded = [tensors[blocks[f"decoder_{level}b"]] for level in range(1, 6)]
    assert [one.height for one in decoded] == [size >> n for n in range(4, -1, -1)]
    assert (plan.output.output.height, plan.output.output.channels) == (size, 1)


@pytest.mark.parametrize("upsampling", ["transpose", "nearest", "bilinear"])
def test_a_decoder_joins_every_stage_but_the_last(upsampling: str) -> None:
    plan = lower(network("resnet18", decoder={"upsampling": upsampling}), 64, 64)
    joined = [op.inputs[1].split("/")[0] for op in plan.operations if op.name.endswith("/concat")][1:]
    assert joined == ["encoder_3_2", "encoder_2_2", "encoder_1_2", "encoder_stem"]


@pytest.mark.parametrize("name", PLANS)
def test_configurations_lower_to_the_plans_of_before(name: str) -> None:
    found = []
    for height, width in ((128, 96), (64, 160)):
        plan = lower(load_configuration(CONFIGS / f"{name}.yaml").network, height, width)
        found.append(hashlib.sha256(repr(plan).encode()).hexdigest()[:16])
    assert tuple(found) == PLANS[name]


def test_every_configuration_is_among_them() -> None:
    assert sorted(PLANS) == sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize(
    ("padding", "size", "kernel", "stride", "dilation", "expected"),
    [
        ("same", 11, 3, 2, 1, (6, (1, 1))),
        ("same", 10, 3, 2, 1, (5, (0, 1))),
        ("symmetric", 10, 3, 2, 1, (5, (1, 1))),
        ("symmetric", 11, 5, 1, 2, (11, (4, 4))),
        ("valid", 11, 3, 2, 2, (4, (0, 0))),
        ("ceil", 10, 3, 2, 1, (5, (0, 1))),
        ("ceil", 11, 3, 2, 1, (5, (0, 0))),
        ("ceil", 10, 2, 3, 1, (4, (0, 1))),
    ],
)
def test_pads(
    padding: str, size: int, kernel: int, stride: int, dilation: int, expected: tuple[int, tuple[int, int]]
) -> None:
    assert pads_of(padding, size, kernel, stride, dilation) == expected


def conv(**keys: Any) -> dict[str, Any]:
    return {"name": "one", "kind": "conv", "filters": 4, "stride": 1} | keys


@pytest.mark.parametrize(
    ("blocks", "keys", "says"),
    [
        ([conv(groups=3), MASK], {}, "network.blocks[0]: 3 groups do not divide 1 channels in and 4 out"),
        ([conv(kernel=9, padding="valid"), MASK], {}, "network.blocks[0]: a kernel of 9x9 does not fit"),
        ([conv(), conv(name="two"), MASK | {"source": "one"}], {}, "no block reads the output of 'two'"),
        ([conv(source="two"), MASK], {}, "network.blocks[0].source: no earlier block is called 'two'"),
        ([MASK], {"decoder": {}}, "network.decoder: there is no encoder to decode"),
        (
            [conv(name="encoder_stem"), MASK],
            {"encoder": {"kind": "resnet18"}},
            "is called 'encoder_stem' too",
        ),
    ],
)
def test_refusals(blocks: list[dict[str, Any]], keys: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        lower_blocks(Network.model_validate({"blocks": blocks, **keys}), 8, 8)
    assert says in str(caught.value)
