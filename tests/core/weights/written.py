"""The same networks in the neutral specification, up to their last feature map."""

from __future__ import annotations

from typing import Any

from core.network.encoders import blocks_of, stages_of
from core.network.specification import Encoder, Network
from core.weights.names import NamesFile

Blocks = list[dict[str, Any]]

_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_FIRE_PLACES = (3, 4, 5, 7, 8, 9, 10, 12)


def network(kind: str, tail: Blocks, **keys: Any) -> Network:
    """Return the network of a stranger's name, with `tail` behind it."""
    return Network.model_validate(_head(kind) | keys | {"blocks": [*_own_blocks(kind), *tail]})


def stages(kind: str) -> list[tuple[str, str | None]]:
    """Return the blocks whose outputs are the stranger's features; a second one is joined to the first."""
    if kind == "MobileNetV2":
        names = ["encoder_1_1", "encoder_2_2", "encoder_3_3", "encoder_5_3", "encoder_top"]
        return [(name, None) for name in names]
    if kind == "squeezenet1_0":
        return [("stem", None), *((f"fire{n}_expand1", f"fire{n}_expand3") for n in (3, 7, 8))]
    encoder = Encoder(**_head(kind).get("encoder", {"kind": "resnet50"}))
    return [(name, None) for name in stages_of(encoder)]


def squeezenet_names() -> NamesFile:
    """Return the names of Gluon's squeezenet1.0."""
    layers = {"stem": "features.0"}
    for number, place in enumerate(_FIRE_PLACES, start=1):
        layers[f"fire{number}_squeeze"] = f"features.{place}.0.0"
        layers[f"fire{number}_expand1"] = f"features.{place}.1.0.0"
        layers[f"fire{number}_expand3"] = f"features.{place}.1.1.0"
    return NamesFile(layers=layers, leave=(r"output\.0",))


def _head(kind: str) -> dict[str, Any]:
    scaled = {"channels": 3, "mean": [0.5], "std": [0.25]}
    epsilon = {"ResNet50": 1.001e-5, "MobileNetV2": 1e-3, "efficientnet_lite0": 1e-3}.get(kind, 1e-5)
    head: dict[str, Any] = {"input": scaled, "batch_norm_settings": {"epsilon": max(epsilon, 1e-5)}}
    encoders = {
        "resnet18_v1": {"kind": "resnet18"},
        "resnet34_v1": {"kind": "resnet34"},
    }
    if kind not in _OWN:
        head["encoder"] = encoders.get(kind, {"kind": kind})
    return head


def _own_blocks(kind: str) -> Blocks:
    return _OWN.get(kind, list)()


def _resnet50_with_biases() -> Blocks:
    """Return the encoder's blocks as Keras and Gluon have them: with biases before batch norms."""
    encoder = Encoder(kind="resnet50", stride_at="first")
    found = [block.model_dump(exclude_none=True) for block in blocks_of(encoder, None)]
    return [block | {"bias": True} if "bias" in block else block for block in found]


def _mobilenet_v2() -> Blocks:
    plain = {"bias": False, "order": "norm_activation", "activation": "relu6"}
    blocks: Blocks = [{"name": "encoder_stem", "kind": "conv", "filters": 32, **plain}]
    before = 32
    for stage, (expansion, filters, count, stride) in enumerate(_MOBILENET_V2, start=1):
        for number in range(1, count + 1):
            block = {"name": f"encoder_{stage}_{number}", "kind": "residual", "form": "inverted"}
            shape = {"filters": filters, "width": before * expansion, "stride": stride if number == 1 else 1}
            blocks.append({**block, **shape, "activation": "relu6"})
            before = filters
    return [*blocks, {"name": "encoder_top", "kind": "pointwise", "filters": 1280, **plain}]


def _squeezenet() -> Blocks:
    plain = {"batch_norm": False}
    pool = {"kind": "pool", "kernel": 3, "stride": 2, "padding": "ceil"}
    stem = {"name": "stem", "kind": "conv", "filters": 96, "kernel": 7, "padding": "valid", **plain}
    blocks: Blocks = [stem, {"name": "pool1", **pool}]
    joined = None  # the expansion that the next block joins: 1x1 first, then 3x3
    for number, (squeezed, expanded) in enumerate(_FIRES, start=1):
        name = f"fire{number}"
        if number in (4, 8):
            blocks.append({"name": f"pool{number}", **pool, "skip": joined})
            joined = None
        first = {"name": f"{name}_squeeze", "kind": "pointwise", "filters": squeezed, **plain}
        blocks += [
            first if joined is None else {**first, "skip": joined},
            {"name": f"{name}_expand3", "kind": "conv", "filters": expanded, "stride": 1, **plain},
            {
                "name": f"{name}_expand1",
                "kind": "pointwise",
                "filters": expanded,
                "source": f"{name}_squeeze",
                **plain,
            },
        ]
        joined = f"{name}_expand3"
    return blocks


_OWN = {
    "ResNet50": _resnet50_with_biases,
    "resnet50_v1": _resnet50_with_biases,
    "MobileNetV2": _mobilenet_v2,
    "squeezenet1_0": _squeezenet,
}
"""Networks that are written block by block."""
