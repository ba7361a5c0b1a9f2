"""The blocks that an encoder and a decoder stand for: networks from the literature in this toolkit's blocks.

`blocks_of` gives them in order; `stages_of` names, for each halving of the image, the block whose output a
decoder joins. Names are `encoder_...` and `decoder_...`, the same in every configuration, so that skips,
frozen blocks and imported weights can name them.

Sources: ResNet: He et al., "Deep residual learning for image recognition", 2016, with the stride at the 3x3
as in torchvision. SE-ResNeXt: Xie et al., 2017; Hu et al., "Squeeze-and-excitation networks", 2018, as in the
authors' code. EfficientNet-lite0: Tan and Le, "EfficientNet", 2019, in the version without
squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from core.network.specification import (
    Block,
    ConvBlock,
    Decoder,
    Encoder,
    PoolBlock,
    ResidualBlock,
    TransposeBlock,
    UpsampleBlock,
)


class _Stages(NamedTuple):
    """Blocks in order, and for each halving of the image the last block at that size."""

    blocks: list[Block]
    last: list[str]


class _Inverted(NamedTuple):
    """Inverted residual blocks of one size."""

    expansion: int
    kernel: int
    stride: int
    filters: int
    repeats: int


_RESNETS: dict[str, tuple[Literal["basic", "bottleneck"], Sequence[int]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "se_resnext50": ("bottleneck", (3, 4, 6, 3)),
}
_EFFICIENTNET_LITE0 = (
    _Inverted(1, 3, 1, 16, 1),
    _Inverted(6, 3, 2, 24, 2),
    _Inverted(6, 5, 2, 40, 2),
    _Inverted(6, 3, 2, 80, 3),
    _Inverted(6, 5, 1, 112, 3),
    _Inverted(6, 5, 2, 192, 4),
    _Inverted(6, 3, 1, 320, 1),
)


def blocks_of(encoder: Encoder, decoder: Decoder | None) -> list[Block]:
    """The encoder's blocks, then the decoder's."""
    stages = _stages_of(encoder)
    return [*stages.blocks, *(_decoder_blocks(decoder, stages.last) if decoder is not None else ())]


def stages_of(encoder: Encoder) -> list[str]:
    """The encoder's blocks whose outputs are 1/2, 1/4, ... of the image: the last of each size."""
    return _stages_of(encoder).last


def _stages_of(encoder: Encoder) -> _Stages:
    return _efficientnet_lite0() if encoder.kind == "efficientnet_lite0" else _resnet(encoder)


def _resnet(encoder: Encoder) -> _Stages:
    form, repeats = _RESNETS[encoder.kind]
    squeezes = encoder.kind == "se_resnext50"
    blocks: list[Block] = [
        ConvBlock(
            name="encoder_stem",
            kind="conv",
            filters=64,
            kernel=7,
            padding="symmetric",
            bias=False,
            batch_norm=True,
            dropout=0.0,
            order="norm_activation",
            activation="relu",
        ),
        PoolBlock(
            name="encoder_pool", kind="pool", kernel=3, stride=2, padding="ceil" if squeezes else "symmetric"
        ),
    ]
    last = ["encoder_stem"]
    for stage, count in enumerate(repeats, start=1):
        filters = 64 * 2 ** (stage - 1) * (4 if form == "bottleneck" else 1)
        blocks += (
            ResidualBlock(
                name=f"encoder_{stage}_{number}",
                kind="residual",
                form=form,
                filters=filters,
                stride=2 if stage > 1 and number == 1 else 1,
                width=filters // 2 if squeezes else None,
                groups=32 if squeezes else 1,
                squeeze=filters // 16 if squeezes else None,
                stride_at=encoder.stride_at,
                padding="symmetric",
            )
            for number in range(1, count + 1)
        )
        last.append(f"encoder_{stage}_{count}")
    return _Stages(blocks, last)


def _efficientnet_lite0() -> _Stages:
    blocks: list[Block] = [
        ConvBlock(
            name="encoder_stem",
            kind="conv",
            filters=32,
            kernel=3,
            padding="same",
            bias=False,
            batch_norm=True,
            dropout=0.0,
            order="norm_activation",
            activation="relu6",
        )
    ]
    last = ["encoder_stem"]
    before = 32
    for stage, group in enumerate(_EFFICIENTNET_LITE0, start=1):
        if group.stride == 2:
            last.append("")
        for number in range(1, group.repeats + 1):
            blocks.append(
                ResidualBlock(
                    name=f"encoder_{stage}_{number}",
                    kind="residual",
                    form="inverted",
                    filters=group.filters,
                    kernel=group.kernel,
                    stride=group.stride if number == 1 else 1,
                    width=before * group.expansion,
                    activation="relu6",
                    padding="same",
                )
            )
            before = group.filters
        last[-1] = f"encoder_{stage}_{group.repeats}"
    return _Stages(blocks, last)


def _decoder_blocks(decoder: Decoder, stages: Sequence[str]) -> list[Block]:
    """A level for each of `filters`; the last ones, if there are more levels than stages, join nothing."""
    blocks: list[Block] = []
    joined = [*reversed(stages[:-1])]
    for level, filters in enumerate(decoder.filters, start=1):
        name = f"decoder_{level}"
        if decoder.upsampling == "transpose":
            blocks.append(
                TransposeBlock(
                    name=f"{name}_up",
                    kind="transpose",
                    filters=filters,
                    bias=False,
                    batch_norm=True,
                    dropout=0.0,
                    order="norm_activation",
                    activation="relu",
                )
            )
        else:
            blocks.append(UpsampleBlock(name=f"{name}_up", kind="upsample", method=decoder.upsampling))
        skip = joined[level - 1] if level <= len(joined) else None
        blocks += (
            ConvBlock(
                name=f"{name}{part}",
                kind="conv",
                filters=filters,
                stride=1,
                padding="same",
                bias=False,
                batch_norm=True,
                order="norm_activation",
                activation="relu",
                skip=joins,
            )
            for part, joins in (("a", skip), ("b", None))
        )
    return blocks
