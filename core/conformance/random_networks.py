"""Random networks with all kinds of block; a seed always gives the same network."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.conformance.cases import Case, make_case
from core.network.padding import same_crops, same_pads


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
