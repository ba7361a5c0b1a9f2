"""The network as its author writes it: named blocks, and an encoder and a decoder that stand for many.

A `Network` that exists is well formed: names are unique, exactly one output block stands at the end, a skip
or a source names an earlier block, and unknown keys are refused. Whether shapes meet depends on the images'
size: `core.network.lowering` checks it. No primitive operation is known here.

    conv         convolution + bias -> ReLU -> batch norm if asked -> dropout if asked
    pointwise    the same with kernel 1 and stride 1; as many filters as the block before unless given
    transpose    transposed convolution (SAME) + bias -> ReLU -> batch norm -> dropout
    residual     convolutions, whose result is added to the block's input
    pool         the maximum or the mean of windows
    upsample     larger by a whole factor, without weights
    output       transposed convolution (SAME), or a convolution, + bias to 1 filter; sigmoid when predicting

`skip: NAME` joins the output of the block NAME to this block's input, after it along the channels. `source:
NAME` makes the output of the block NAME this block's input, in place of the block before.

The keys `bias`, `order`, `activation` and `padding` of a block are the network's own unless the block has
them:

    order      activation_norm: convolution, activation, batch norm; norm_activation: convolution, batch norm,
               activation, as in residual networks (He et al., 2016)
    padding    same: as TensorFlow's SAME, which depends on the size; symmetric: kernel // 2 (with a dilation
               times it) at both sides, as in PyTorch's networks; valid: none
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.base.errors import UserError

BlockName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Size = Annotated[int, Field(ge=1, le=4096)]
ActivationName: TypeAlias = Literal["relu", "relu6", "leaky_relu", "elu", "silu", "none"]
Order: TypeAlias = Literal["activation_norm", "norm_activation"]
Padding: TypeAlias = Literal["same", "symmetric", "valid"]
PoolPadding: TypeAlias = Padding | Literal["ceil"]


class Strict(BaseModel):
    """An immutable model that refuses unknown keys, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _NamedBlock(Strict):
    name: BlockName
    skip: str | None = None
    source: str | None = None


class _HiddenBlock(_NamedBlock):
    """None leaves a key to the network's own setting."""

    batch_norm: bool | None = None
    dropout: Rate | None = None
    bias: bool | None = None
    order: Order | None = None
    activation: ActivationName | None = None


class ConvBlock(_HiddenBlock):
    """Convolution: (h, w, c) -> (ceil(h / stride), ceil(w / stride), filters) with `padding: same`.

    `groups` divides the channels in and `filters`; a depthwise convolution has as many groups as channels.
    """

    kind: Literal["conv"]
    filters: Size
    kernel: Size = 3
    stride: Size = 2
    padding: Padding | None = None
    groups: Size = 1
    dilation: Size = 1


class PointwiseBlock(_HiddenBlock):
    """1x1 convolution: (h, w, c) -> (h, w, filters); by default as many filters as the previous block."""

    kind: Literal["pointwise"]
    filters: Size | None = None
    groups: Size = 1


class TransposeBlock(_HiddenBlock):
    """Transposed convolution: (h, w, c) -> (h * stride, w * stride, filters)."""

    kind: Literal["transpose"]
    filters: Size
    kernel: Size = 3
    stride: Size = 2


class ResidualBlock(_NamedBlock):
    """Convolutions, each followed by batch norm and activation, whose result is added to the block's input.

    basic         kernel x kernel with the stride, kernel x kernel; activation after the sum (He et al., 2016)
    bottleneck    1x1 to `width`, kernel x kernel in `groups`, 1x1 to `filters`; activation after the sum. The
                  stride is at the first (He et al.) or at the middle one (PyTorch's networks)
    inverted      1x1 to `width`, kernel x kernel of each channel alone with the stride, 1x1 to `filters`
                  without an activation, and none after the sum (Sandler et al., 2018). Where `width` is as
                  many channels as come in, there is no first 1x1

    The shortcut is the input itself. Where the shapes differ it is a 1x1 convolution with the stride and
    batch norm, and an inverted block has none. `squeeze: n` scales the channels before the sum (in an
    inverted block after the depthwise convolution): global mean, dense to n, ReLU, dense, sigmoid (Hu et al.,
    2018). `width` is a quarter of `filters` in a bottleneck and 6 times the channels in of an inverted block,
    unless given.
    """

    kind: Literal["residual"]
    form: Literal["basic", "bottleneck", "inverted"]
    filters: Size
    kernel: Size = 3
    stride: Size = 1
    width: Size | None = None
    groups: Size = 1
    stride_at: Literal["first", "middle"] = "middle"
    squeeze: Size | None = None
    bias: bool = False
    activation: ActivationName = "relu"
    padding: Padding | None = None

    @model_validator(mode="after")
    def _fits_the_form(self) -> Self:
        if self.form == "basic" and self.width is not None:
            raise ValueError("width has no meaning in a basic block; it has `filters` everywhere")
        if self.form != "bottleneck" and (self.groups != 1 or self.stride_at != "middle"):
            raise ValueError("groups and stride_at have a meaning in a bottleneck alone")
        return self


class PoolBlock(_NamedBlock):
    """Windows of each channel: the maximum, or the mean of the pixels that are there.

    `padding: ceil` has windows from the first pixel on, and a last one that may stand out (as `ceil_mode`).
    """

    kind: Literal["pool"]
    mode: Literal["max", "average"] = "max"
    kernel: Size = 2
    stride: Size = 2
    padding: PoolPadding = "same"


class UpsampleBlock(_NamedBlock):
    """(h, w, c) -> (h * factor, w * factor, c); bilinear has pixel centres at halves."""

    kind: Literal["upsample"]
    factor: Annotated[int, Field(ge=2, le=64)] = 2
    method: Literal["nearest", "bilinear"] = "nearest"


class OutputBlock(_NamedBlock):
    """To one filter: (h, w, c) -> (h * stride, w * stride, 1) logits; a convolution only with stride 1."""

    kind: Literal["output"]
    kernel: Size = 3
    stride: Size = 2
    transposed: bool = True

    @model_validator(mode="after")
    def _convolution_keeps_the_size(self) -> Self:
        if not self.transposed and self.stride != 1:
            raise ValueError("an output that is a convolution has stride 1")
        return self


Block = Annotated[
    ConvBlock | PointwiseBlock | TransposeBlock | ResidualBlock | PoolBlock | UpsampleBlock | OutputBlock,
    Field(discriminator="kind"),
]


class BatchNormSettings(Strict):
    """Settings of all batch normalisations: running = momentum * running + (1 - momentum) * batch."""

    momentum: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.99
    epsilon: Annotated[float, Field(ge=1e-5, le=1.0)] = 1e-3


class InputSettings(Strict):
    """What the first block gets: (image - mean) / std in `channels` copies of the image.

    None for `channels` takes the image as it is. `mean` and `std` have one number, or one for each channel.
    Convolutions pad after this, with zeros.
    """

    channels: Annotated[int, Field(ge=1, le=16)] | None = None
    mean: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0.0, le=1e6)], ...] = (1.0,)

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> Self:
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, self.channels or 1):
                raise ValueError(f"{name} has {len(numbers)} numbers; expected 1 or channels={self.channels}")
        return self


class Encoder(Strict):
    """A network from the literature up to its last feature map: `core.network.encoders` has its blocks.

    resnet18, resnet34, resnet50    He et al., 2016, with the stride as in PyTorch's
    se_resnext50                    Hu et al., 2018, 32 groups of 4
    efficientnet_lite0              Tan and Le, 2019, without squeeze-and-excitation, ReLU6

    Its blocks are called `encoder_...`; each has the batch norm, order, padding and activation of the paper's
    code. `stride_at: first` makes resnet50 that of Keras and of Gluon, whose bottlenecks have their stride at
    the first 1x1.
    """

    kind: Literal["resnet18", "resnet34", "resnet50", "se_resnext50", "efficientnet_lite0"]
    stride_at: Literal["first", "middle"] = "middle"

    @model_validator(mode="after")
    def _has_bottlenecks(self) -> Self:
        if self.stride_at == "first" and self.kind != "resnet50":
            raise ValueError(f"stride_at: first is for resnet50; {self.kind} has its strides elsewhere")
        return self


class Decoder(Strict):
    """A U-Net's decoder over the encoder's stages (Ronneberger et al., 2015).

    Each level: twice as large, by a transposed convolution or by upsampling; joined with the encoder's output
    of that size; two 3x3 convolutions. Its blocks are called `decoder_...`.

    Args:
        filters: Of each level from the smallest on; as many levels as the encoder halves the image.
        upsampling: How a level becomes twice as large.
    """

    filters: Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)] = (256, 128, 64, 32, 16)
    upsampling: Literal["transpose", "nearest", "bilinear"] = "nearest"


EXISTENCE = "existence"
"""The name that the operations and parameters of the existence head begin with."""


class ExistenceHead(Strict):
    """A second output: the probability that an image's mask is not empty.

    It is the global mean of the output of one block, then dropout if asked, then a weighted sum of the
    channels with a bias (a dense layer), and a sigmoid when predicting.

    Args:
        source: The block. None takes the encoder's last block or, without an encoder, the first of the
            blocks whose outputs are the smallest.
        dropout: The probability of dropping a channel's mean.
    """

    source: BlockName | None = None
    dropout: Rate = 0.0


class Network(Strict):
    """The blocks from input to output and what they share.

    With an `encoder` its blocks come first, then the `decoder`'s, then `blocks`.
    """

    blocks: Annotated[list[Block], Field(min_length=1)]
    input: InputSettings = InputSettings()
    encoder: Encoder | None = None
    decoder: Decoder | None = None
    existence: ExistenceHead | None = None
    batch_norm: bool = True
    dropout: Rate = 0.0
    bias: bool = True
    order: Order = "activation_norm"
    activation: ActivationName = "relu"
    padding: Padding = "same"
    batch_norm_settings: BatchNormSettings = BatchNormSettings()

    @model_validator(mode="after")
    def _well_formed(self) -> Self:
        # A UserError passes through pydantic as it is and so can carry the path of the bad key.
        if self.decoder is not None and self.encoder is None:
            raise UserError("network.decoder: there is no encoder to decode", "Add network.encoder.")
        seen = list(self._expanded_names())
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            where = f"network.blocks[{index}]"
            if block.name in seen:
                raise UserError(f"{where}.name: a block before it is called {block.name!r} too")
            for key, named in (("skip", block.skip), ("source", block.source)):
                if named is not None and named not in seen:
                    raise UserError(f"{where}.{key}: {_bad_name(key, named, block.name, seen, self)}")
            if (block.kind == "output") != (index == last):
                raise UserError(
                    f"{where}.kind: "
                    + (
                        f"the last block must be the output block; received {block.kind!r}"
                        if index == last
                        else f"the output block must be the last; {last - index} more follow"
                    )
                )
            seen.append(block.name)
        if self.existence is not None:
            self._check_existence(self.existence, seen)
        return self

    def _check_existence(self, head: ExistenceHead, seen: list[str]) -> None:
        if EXISTENCE in seen:
            raise UserError(f"network.existence: a block is called {EXISTENCE!r} too", "Rename the block.")
        *hidden, output = seen
        if head.source is None and not hidden:
            raise UserError(
                f"network.existence: there is no block before {output!r} to read", "Add a block to `blocks`."
            )
        if head.source is not None and head.source not in hidden:
            close = difflib.get_close_matches(head.source, hidden, n=1)
            guess = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(
                f"network.existence.source: no block before the output block is called {head.source!r}; "
                f"blocks: {hidden}{guess}"
            )

    def block_names(self) -> list[str]:
        """Return the names of all blocks in order: the encoder's, the decoder's, `blocks`, the head's."""
        own = [block.name for block in self.blocks]
        return [*self._expanded_names(), *own, *([EXISTENCE] if self.existence is not None else [])]

    def _expanded_names(self) -> Iterator[str]:
        if self.encoder is not None:
            from core.network.encoders import blocks_of  # it is written in these blocks

            yield from (block.name for block in blocks_of(self.encoder, self.decoder))


def _bad_name(key: str, named: str, name: str, earlier: list[str], network: Network) -> str:
    if named == name:
        return f"a block cannot {'skip to' if key == 'skip' else 'read'} itself ({named!r})"
    if named in {block.name for block in network.blocks}:
        does = "joins" if key == "skip" else "is"
        return f"{named!r} comes after {name!r}; a {key} {does} an earlier block"
    close = difflib.get_close_matches(named, earlier, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"no earlier block is called {named!r}; earlier blocks: {earlier}{guess}"
