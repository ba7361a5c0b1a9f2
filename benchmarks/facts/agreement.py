"""Deviations of each backend's float32 from the float64 reference, with the budgets of `core.tolerance`."""

from __future__ import annotations

from typing import Any

from benchmarks.facts.measures import Part
from benchmarks.facts.records import Row
from core.backend.process import BackendProcess
from core.conformance.cases import distances_from_reference
from core.conformance.training import LARGE, USUAL, Setting, case_of_setting, train
from core.tolerance.budget import Distance, largest_share

SETTINGS = (*USUAL, *LARGE[:2], Setting("demo", 384, (8,)), Setting("unet", 192, (4,), fresh=False))


def agreement(part: Part) -> list[Row]:
    """Return a row for each backend and setting: largest deviations and largest share of a budget."""
    processes = {name: BackendProcess(name) for name in part.backends}
    rows: list[Row] = []
    try:
        for setting in SETTINGS:
            case = case_of_setting(setting)
            for name, process in processes.items():
                steps = distances_from_reference(train, process.call(train, case, "float32"), case, "float32")
                rows.append({**_what(setting), "backend": name, **_row(steps)})
                print(
                    f"  {setting}: {name}: {rows[-1]['worst_share_of_budget']:.2f} of the budget", flush=True
                )
    finally:
        for process in processes.values():
            process.close()
    return rows


def _what(setting: Setting) -> dict[str, Any]:
    return {
        "network": setting.network,
        "size": setting.size,
        "batch": setting.batches[0],
        "steps": len(setting.batches),
        "input": setting.input,
    }


def _row(steps: list[dict[Any, dict[str, Distance]]]) -> dict[str, Any]:
    def largest(kind: str) -> float:
        return max(distance.value for found in steps for distance in found[kind].values())

    array, distance = "-", Distance(0.0, 1.0)
    for found in steps:
        for kind, arrays in found.items():
            name, other = largest_share(arrays)
            if other.share > distance.share:
                array, distance = name if kind == "loss" else f"{kind} of {name}", other
    return {
        **{f"largest_distance_{kind}": largest(kind) for kind in ("loss", "gradient", "statistic")},
        "worst_array": array,
        "worst_distance": distance.value,
        "worst_budget": distance.budget,
        "worst_share_of_budget": distance.share,
    }
