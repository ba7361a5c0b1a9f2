"""Random networks; a seed always gives the same network.

`random_case` has the blocks that every backend must know, `random_literature_case` those of networks from the
literature too.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from pydantic import ValidationError

from core.base.errors import UserError
from core.conformance.cases import Case, make_case
from core.network.lowering import lower_blocks
from core.network.padding import same_crops, same_pads
from core.network.specification import Network

_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "silu", "none")
_PADDINGS = ("same", "symmetric", "valid")


def random_literature_case(seed: int) -> Case:
    """Return a case with three to six blocks of all kinds, whose keys are drawn at random."""
    rng = np.random.default_rng([seed, 2027])
    height, width = int(rng.integers(9, 30)), int(rng.integers(9, 30))
    mask = {"name": "mask", "kind": "output", "kernel": int(rng.integers(1, 4)), "stride": 1}
    blocks: list[dict[str, Any]] = []
    wanted = int(rng.integers(3, 7))
    while len(blocks) < wanted:
        block = {"name": f"block{len(blocks)}"} | _random_block(rng)
        # What does not fit (groups that divide no channels, a kernel that is too large) is drawn again.
        with contextlib.suppress(UserError, ValidationError):
            network = Network.model_validate({"blocks": [*blocks, block, mask]})
            if lower_blocks(network, height, width).output.output.height <= 40:
                blocks.append(block)
    return make_case(
        [*blocks, mask | {"transposed": bool(rng.random() < 0.5)}],
        height,
        width,
        batches=(3, 2),
        seed=seed,
        order=str(rng.choice(["activation_norm", "norm_activation"])),
        activation=str(rng.choice(_ACTIVATIONS)),
        padding=str(rng.choice(_PADDINGS[:2])),
        bias=bool(rng.random() < 0.5),
        batch_norm=bool(rng.random() < 0.7),
        input={"channels": 3, "mean": [0.4], "std": [0.3]} if rng.random() < 0.5 else {},
    )


def _random_block(rng: np.random.Generator) -> dict[str, Any]:
    """Return the keys of a block of a random kind, all but its name."""
    kernel, stride = int(rng.integers(1, 6)), int(rng.choice([1, 1, 2]))
    filters = int(rng.choice([2, 4, 6]))
    match str(rng.choice(["conv", "pointwise", "transpose", "residual", "residual", "pool", "upsample"])):
        case "conv":
            own = {"padding": str(rng.choice(_PADDINGS)), "activation": str(rng.choice(_ACTIVATIONS))}
            parts = {"groups": int(rng.choice([1, 2, 3])), "dilation": int(rng.choice([1, 1, 2]))}
            return {"kind": "conv", "filters": filters, "kernel": kernel, "stride": stride} | own | parts
        case "pointwise":
            return {"kind": "pointwise", "filters": filters, "activation": str(rng.choice(_ACTIVATIONS))}
        case "transpose":
            return {"kind": "transpose", "filters": filters, "kernel": kernel, "stride": stride}
        case "residual":
            form = str(rng.choice(["basic", "bottleneck", "inverted"]))
            shape = {"form": form, "filters": filters, "kernel": int(rng.choice([3, 5])), "stride": stride}
            squeeze = {"squeeze": int(rng.integers(1, 4))} if rng.random() < 0.4 else {}
            activation, bias = str(rng.choice(_ACTIVATIONS)), bool(rng.random() < 0.3)
            return {"kind": "residual", "activation": activation, "bias": bias} | shape | squeeze
        case "pool":
            settings = {"mode": str(rng.choice(["max", "average"])), "kernel": int(rng.integers(2, 5))}
            padding = str(rng.choice([*_PADDINGS, "ceil"]))
            return {"kind": "pool", "stride": int(rng.integers(1, 4)), "padding": padding} | settings
        case _:
            method = str(rng.choice(["nearest", "bilinear"]))
            return {"kind": "upsample", "factor": int(rng.integers(2, 4)), "method": method}


def random_case(seed: int, *, existence: bool = False) -> Case:
    """Return a case with a random network, loss and optimiser, and three batches of different lengths.

    The network has two to seven blocks, skips where possible, and batch norm and dropout switched at random.
    With `existence` it is the same network with an existence head on a random block.
    """
    rng = np.random.default_rng([seed, 2026])
    size = height, width = int(rng.integers(5, 25)), int(rng.integers(5, 25))
    blocks: list[dict[str, Any]] = []
    sizes: dict[str, tuple[int, int]] = {}
    for number in range(int(rng.integers(1, 7))):
        kinds = ["conv", "pointwise", "transpose"] if max(size) < 30 else ["conv", "pointwise"]
        block: dict[str, Any] = {"name": f"block{number}", "kind": str(rng.choice(kinds))}
        if fitting := [name for name, other in sizes.items() if other == size]:
            block |= {"skip": str(rng.choice(fitting))} if rng.random() < 0.7 else {}
        if block["kind"] == "pointwise":
            block |= {"filters": int(rng.integers(1, 8))} if rng.random() < 0.5 else {}
        else:
            block |= {
                "filters": int(rng.integers(1, 8)),
                "kernel": int(rng.integers(1, 6)),
                "stride": int(rng.choice([1, 1, 2, 2, 3])),
            }
            rule = same_pads if block["kind"] == "conv" else same_crops
            size = tuple(rule(n, block["kernel"], block["stride"])[0] for n in size)  # type: ignore[assignment]
        block |= {"batch_norm": bool(rng.random() < 0.5)} if rng.random() < 0.5 else {}
        block |= {"dropout": float(rng.choice([0.0, 0.1, 0.5]))} if rng.random() < 0.5 else {}
        blocks.append(block)
        sizes[block["name"]] = size
    fitting = [name for name, other in sizes.items() if other == size]
    last: dict[str, Any] = {"name": "mask", "kind": "output", "kernel": int(rng.integers(1, 6))}
    last |= {"skip": str(rng.choice(fitting))} if rng.random() < 0.5 else {}
    blocks.append(last | {"stride": int(rng.integers(1, 3))})
    loss = {
        name: float(rng.choice([0.0, 0.5, 2.0])) for name in ("bce", "dice", "focal", "tversky", "lovasz")
    }
    optimizer: dict[str, Any] = {"name": str(rng.choice(["adam", "adamw", "sgd"]))}
    if optimizer["name"] == "sgd":
        optimizer |= {"momentum": float(rng.choice([0.0, 0.9])), "nesterov": bool(rng.random() < 0.5)}
    training: dict[str, Any] = {
        "loss": loss if any(loss.values()) else {},
        "optimizer": optimizer | {"weight_decay": float(rng.choice([0.0, 0.1]))},
        "clip_norm": float(rng.choice([0.1, 10.0])) if rng.random() < 0.5 else None,
    }
    network: dict[str, Any] = {}
    if existence:
        own = np.random.default_rng([seed, 2026, 23])
        training["loss"]["existence"] = float(own.choice([0.5, 2.0]))
        source = str(own.choice([block["name"] for block in blocks[:-1]]))
        network["existence"] = {"source": source, "dropout": float(own.choice([0.0, 0.5]))}
    case = make_case(
        blocks,
        height,
        width,
        batches=(3, 2, 4),
        seed=seed,
        training=training,
        batch_norm=bool(rng.random() < 0.5),
        dropout=float(rng.choice([0.0, 0.25])),
        **network,
    )
    if existence:
        for _, masks in case.batches:
            masks[1] = 0
    return case
