"""How other programs call the layers of the networks that `core.network.encoders` writes down.

A `Naming` gives for a layer of ours (`encoder_1_2/conv1`) the names of the file's convolution and of its
batch norm (`layer1.1.conv1`, `layer1.1.bn1`). A layer of ours that it does not know has none in such a file.
It also says what the zoo's networks compute in their own way, since arrays of equal shape do not show it.

A YAML file names the layers of any other network (`read_names`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import yaml
from pydantic import Field, ValidationError

from core.base.errors import UserError
from core.files.system_errors import explain_os_errors
from core.network.specification import Strict


class SourceNames(NamedTuple):
    """The file's names of one layer of ours."""

    convolution: str
    norm: str | None = None


Templates: TypeAlias = Mapping[str, SourceNames]


@dataclass(frozen=True)
class Naming:
    """The names that a zoo gives to the layers of an encoder, and of a decoder over it.

    In a template `{s}` is the number of the stage and `{n}` that of the block in it, both from 1; `{s0}` and
    `{n0}` are the same from 0; `{s1}` is s + 1 and `{s3}` s + 3; `{flat}` counts all residual blocks from 0,
    `{conv}` the convolutions of a stage from 0.

    Args:
        name: As given to `--names`.
        title: The zoo, for people.
        encoder: "stem", "top", or a part of a residual block -> templates. "alone/conv2" is the depthwise
            convolution of a block without a first 1x1.
        unused: Regular expressions for the file's layers that a segmentation network has no use for.
        decoder: The same for `a` and `b` of a decoder's level, whose number is `{s}`, and for "output".
        epsilon: Of its batch norms; None if not all of its networks have the same.
        padding: Of its convolutions with strides; None likewise.
        stride_at: Where a bottleneck has its stride.
    """

    name: str
    title: str
    encoder: Templates
    unused: tuple[str, ...] = ()
    decoder: Templates = field(default_factory=dict)
    epsilon: float | None = 1e-5
    padding: Literal["same", "symmetric"] | None = "symmetric"
    stride_at: Literal["first", "middle"] = "middle"

    def sources(self, layers: Sequence[str], encoder_prefix: str = "") -> dict[str, SourceNames]:
        """Return the file's names for the layers of ours that this naming knows.

        Args:
            layers: Layers of ours, in the plan's order; the last one is the output's.
            encoder_prefix: What the names of the encoder's layers begin with in the file: "encoder.", ...
        """
        found = {}
        for layer, part, numbers in _places(layers):
            if part in self.encoder:
                found[layer] = _filled(self.encoder[part], numbers, encoder_prefix)
            elif part in self.decoder:
                found[layer] = _filled(self.decoder[part], numbers)
        return found


def _places(layers: Sequence[str]) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield each layer of ours with the key of its template and the numbers in it."""
    blocks = list(dict.fromkeys(layer.split("/")[0] for layer in layers))
    residual = [block for block in blocks if re.fullmatch(r"encoder_\d+_\d+", block)]
    convolutions: dict[int, int] = {}
    for layer in layers:
        block, _, part = layer.partition("/")
        if block in residual:
            stage, number = map(int, block.split("_")[1:])
            place = convolutions.get(stage, 0)
            if not part.startswith("squeeze/"):
                convolutions[stage] = place + 1
            if f"{block}/conv1" not in layers:
                part = f"alone/{part}"
            numbers = {"s": stage, "s0": stage - 1, "s1": stage + 1, "s3": stage + 3, "n": number}
            yield layer, part, numbers | {"n0": number - 1, "flat": residual.index(block), "conv": place}
        elif match := re.fullmatch(r"decoder_(\d+)(a|b|_up)", block):
            yield layer, f"decoder/{match[2]}", {"s": int(match[1]), "s0": int(match[1]) - 1}
        elif layer == layers[-1]:
            yield layer, "output", {}
        else:
            yield layer, block.removeprefix("encoder_"), {}


def _filled(names: SourceNames, numbers: Mapping[str, int], prefix: str = "") -> SourceNames:
    norm = names.norm and prefix + names.norm.format(**numbers)
    return SourceNames(prefix + names.convolution.format(**numbers), norm)


def _numbered(block: str, **parts: tuple[str, str]) -> dict[str, SourceNames]:
    """Templates of a residual block's parts, with what their names begin with in front."""
    return {part: SourceNames(block + first, block + second) for part, (first, second) in parts.items()}


_UNET = {  # segmentation_models.pytorch
    "decoder/a": SourceNames("decoder.blocks.{s0}.conv1.0", "decoder.blocks.{s0}.conv1.1"),
    "decoder/b": SourceNames("decoder.blocks.{s0}.conv2.0", "decoder.blocks.{s0}.conv2.1"),
    "output": SourceNames("segmentation_head.0"),
}
_LAYERS = _numbered(
    "layer{s}.{n0}.",
    conv1=("conv1", "bn1"),
    conv2=("conv2", "bn2"),
    conv3=("conv3", "bn3"),
    shortcut=("downsample.0", "downsample.1"),
)


def _squeezes(module: str) -> dict[str, SourceNames]:
    return {f"squeeze/dense{n}": SourceNames(f"layer{{s}}.{{n0}}.{module}.fc{n}") for n in (1, 2)}


NAMINGS = (
    Naming(
        "torchvision",
        "torchvision, and timm's ResNet and SE-ResNeXt",
        {"stem": SourceNames("conv1", "bn1"), **_LAYERS, **_squeezes("se")},
        ("fc",),
        _UNET,
    ),
    Naming(
        "cadene",
        "Cadene's SE-ResNeXt, timm's legacy_seresnext",
        {"stem": SourceNames("layer0.conv1", "layer0.bn1"), **_LAYERS, **_squeezes("se_module")},
        ("last_linear",),
        _UNET,
    ),
    Naming(
        "efficientnet_pytorch",
        "EfficientNet-lite of efficientnet_lite_pytorch",
        {
            "stem": SourceNames("_conv_stem", "_bn0"),
            **_numbered(
                "_blocks.{flat}.",
                **{
                    "conv1": ("_expand_conv", "_bn0"),
                    "conv2": ("_depthwise_conv", "_bn1"),
                    "conv3": ("_project_conv", "_bn2"),
                    "alone/conv2": ("_depthwise_conv", "_bn1"),
                    "alone/conv3": ("_project_conv", "_bn2"),
                },
            ),
            "top": SourceNames("_conv_head", "_bn1"),
        },
        ("_conv_head", "_bn1", "_fc"),
        _UNET,
        epsilon=1e-3,
        padding="same",
    ),
    Naming(
        "timm_efficientnet",
        "timm's EfficientNet-lite",
        {
            "stem": SourceNames("conv_stem", "bn1"),
            **_numbered(
                "blocks.{s0}.{n0}.",
                **{
                    "conv1": ("conv_pw", "bn1"),
                    "conv2": ("conv_dw", "bn2"),
                    "conv3": ("conv_pwl", "bn3"),
                    "alone/conv2": ("conv_dw", "bn1"),
                    "alone/conv3": ("conv_pw", "bn2"),
                },
            ),
            "top": SourceNames("conv_head", "bn2"),
        },
        ("conv_head", "bn2", "classifier"),
        _UNET,
        epsilon=None,
        padding=None,
    ),
    Naming(
        "keras_resnet",
        "Keras' ResNet50",
        {
            "stem": SourceNames("conv1_conv", "conv1_bn"),
            **_numbered(
                "conv{s1}_block{n}_",
                conv1=("1_conv", "1_bn"),
                conv2=("2_conv", "2_bn"),
                conv3=("3_conv", "3_bn"),
                shortcut=("0_conv", "0_bn"),
            ),
        },
        ("predictions", "probs"),
        epsilon=1.001e-5,
        stride_at="first",
    ),
    Naming(
        "keras_mobilenet_v2",
        "Keras' MobileNetV2",
        {
            "stem": SourceNames("Conv1", "bn_Conv1"),
            **_numbered(
                "block_{flat}_",
                conv1=("expand", "expand_BN"),
                conv2=("depthwise", "depthwise_BN"),
                conv3=("project", "project_BN"),
            ),
            **{
                f"alone/{part}": SourceNames(f"expanded_conv_{name}", f"expanded_conv_{name}_BN")
                for part, name in (("conv2", "depthwise"), ("conv3", "project"))
            },
            "top": SourceNames("Conv_1", "Conv_1_bn"),
        },
        ("Conv_1", "Conv_1_bn", "predictions", "Logits"),
        epsilon=1e-3,
        padding="same",
    ),
    Naming(
        "gluon_resnet",
        "Gluon's resnet_v1",
        {
            "stem": SourceNames("features.0", "features.1"),
            **_numbered(
                "features.{s3}.{n0}.",
                conv1=("body.0", "body.1"),
                conv2=("body.3", "body.4"),
                conv3=("body.6", "body.7"),
                shortcut=("downsample.0", "downsample.1"),
            ),
        },
        ("output",),
        stride_at="first",
    ),
    Naming(
        "gluon_resnet_prefixed",
        "Gluon's resnet_v1 in files with prefixes",
        {
            "stem": SourceNames("conv0", "batchnorm0"),
            **{
                part: SourceNames("stage{s}_conv{conv}", "stage{s}_batchnorm{conv}")
                for part in ("conv1", "conv2", "conv3", "shortcut")
            },
        },
        ("dense0",),
        stride_at="first",
    ),
)
"""All namings; that which knows most layers of a file is taken."""


class NamesFile(Strict):
    """The content of a YAML file with names.

    Args:
        layers: Layer of ours -> the file's layer, or its convolution and its batch norm.
        leave: Regular expressions for the file's layers that stay unused.
    """

    layers: dict[str, str | tuple[str, str]] = Field(min_length=1)
    leave: tuple[str, ...] = ()

    def sources(self) -> dict[str, SourceNames]:
        """Return the file's names of each layer of ours."""
        return {
            layer: SourceNames(*((names,) if isinstance(names, str) else names))
            for layer, names in self.layers.items()
        }


def read_names(path: Path) -> NamesFile:
    """Read a YAML file with names.

    Raises:
        UserError: It cannot be read, or is not of this form.
    """
    with explain_os_errors(path, "read"):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        return NamesFile.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: {reason}",
            "Expected, for instance: {layers: {stem: features.0, top: [conv, norm]}, leave: [output]}",
        ) from error
