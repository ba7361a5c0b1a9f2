"""The specification of a network, as users write it: four kinds of block, each with a name.

Every `Network` object is well formed: names are unique, the last block and no other is an output block, a
skip names an earlier block, and there are no unknown keys. Whether shapes match depends on the size of the
images; `core.network.lowering` checks that and turns blocks into primitive operations.

    conv         convolution (SAME) + bias -> ReLU -> batch norm if on -> dropout if above 0
    pointwise    as conv with kernel 1 and stride 1; by default as many filters as the previous block
    transpose    transposed convolution (SAME) + bias -> ReLU -> batch norm if on -> dropout if above 0
    output       transposed convolution (SAME) + bias to 1 filter; the sigmoid is applied when predicting

`skip: name` concatenates the output of the block `name` to this block's input, after it along the channels.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.base.errors import UserError

BlockName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Size = Annotated[int, Field(ge=1, le=4096)]


class Strict(BaseModel):
    """An immutable model that refuses unknown keys, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _NamedBlock(Strict):
    name: BlockName
    skip: str | None = None


class _HiddenBlock(_NamedBlock):
    """A block with ReLU; None for `batch_norm` or `dropout` means the network's own setting."""

    batch_norm: bool | None = None
    dropout: Rate | None = None


class ConvBlock(_HiddenBlock):
    """Convolution: (h, w, c) -> (ceil(h / stride), ceil(w / stride), filters)."""

    kind: Literal["conv"]
    filters: Size
    kernel: Size = 3
    stride: Size = 2


class PointwiseBlock(_HiddenBlock):
    """1x1 convolution: (h, w, c) -> (h, w, filters); by default as many filters as the previous block."""

    kind: Literal["pointwise"]
    filters: Size | None = None


class TransposeBlock(_HiddenBlock):
    """Transposed convolution: (h, w, c) -> (h * stride, w * stride, filters)."""

    kind: Literal["transpose"]
    filters: Size
    kernel: Size = 3
    stride: Size = 2


class OutputBlock(_NamedBlock):
    """Transposed convolution to one filter: (h, w, c) -> (h * stride, w * stride, 1) logits."""

    kind: Literal["output"]
    kernel: Size = 3
    stride: Size = 2


Block = Annotated[ConvBlock | PointwiseBlock | TransposeBlock | OutputBlock, Field(discriminator="kind")]


class BatchNormSettings(Strict):
    """Settings of all batch normalisations: running = momentum * running + (1 - momentum) * batch."""

    momentum: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.99
    epsilon: Annotated[float, Field(ge=1e-5, le=1.0)] = 1e-3


class Network(Strict):
    """The blocks from input to output, and the settings that they share."""

    blocks: Annotated[list[Block], Field(min_length=1)]
    batch_norm: bool = True
    dropout: Rate = 0.0
    batch_norm_settings: BatchNormSettings = BatchNormSettings()

    @model_validator(mode="after")
    def _well_formed(self) -> Self:
        # pydantic passes a UserError on unchanged, so the message can contain the path of the wrong key.
        seen: list[str] = []
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            where = f"network.blocks[{index}]"
            if block.name in seen:
                raise UserError(f"{where}.name: a block before it is called {block.name!r} too")
            if block.skip is not None and block.skip not in seen:
                raise UserError(f"{where}.skip: {_bad_skip(block.skip, block.name, seen, self)}")
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
        return self


def _bad_skip(skip: str, name: str, earlier: list[str], network: Network) -> str:
    if skip == name:
        return f"a block cannot skip to itself ({skip!r})"
    if skip in {block.name for block in network.blocks}:
        return f"{skip!r} comes after {name!r}; a skip joins an earlier block"
    close = difflib.get_close_matches(skip, earlier, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"no earlier block is called {skip!r}; earlier blocks: {earlier}{guess}"
