"""The tables of speed in docs/speed.md and README.md.

A ratio is shown as its median with the minimum and maximum of the rounds. README shows the newest ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.facts.layout import (
    Records,
    by_machine,
    number,
    on_machines,
    ratio,
    record_of,
    span,
    table_of,
)
from benchmarks.facts.records import Measurement, Record, Row
from core.base.errors import UserError

_NETWORKS = {
    "fcn": "default FCN",
    "unet": "U-Net",
    "unet_resnet34": "U-Net over ResNet34",
    "unet_efficientnet_lite0": "U-Net over EfficientNet-lite0",
}


@dataclass(frozen=True)
class Figure:
    """A row of README's summary.

    Args:
        what: What is measured.
        over: What it is divided by.
        fact: The fact that it is from.
        field: The field of the fact's rows.
        rows: Values that select the rows.
    """

    what: str
    over: str
    fact: str
    field: str
    rows: tuple[Mapping[str, Any], ...] = ({},)


def _training(framework: str, *sizes: int) -> tuple[Mapping[str, Any], ...]:
    row = {"framework": framework, "network": "fcn", "precision": "float32"}
    return tuple({**row, "batch_size": size} for size in sizes)


_TF, _MXNET = _training("tf", 8, 32), _training("mxnet", 8, 32)

FIGURES = (
    Figure(
        "training, `-f tf`, batches of 8, 32: images/s",
        "the same network by hand in TensorFlow",
        "speed_training",
        "over_by_hand",
        _TF,
    ),
    Figure("", "Keras 3 `fit` on TensorFlow", "speed_training", "over_keras", _TF),
    Figure(
        "training, `-f mxnet`, likewise",
        "the same network by hand in Gluon",
        "speed_training",
        "over_by_hand",
        _MXNET,
    ),
    Figure(
        "batches from a uint8 file in the page cache: images/s",
        "a PyTorch `DataLoader` with two workers",
        "speed_loader",
        "over_torch",
        ({"storage": "uint8", "contender": "ours"},),
    ),
    Figure(
        "`preprocess.py`, DICOM to HDF5: images/s of a core",
        "`pixel_array`, `cv2.resize`, append",
        "speed_preprocessing",
        "over_loop",
    ),
    Figure(
        "`run.py predict`, DICOM to masks: time",
        "the sum of its parts: reading, network, masks",
        "speed_predict_command",
        "over_sum",
    ),
)

_SCRIPTS = {"speed_preprocessing": "preprocess.py"}


def summary(records: Records) -> str:
    """Return README's table: the newest number of each figure from a quiet machine, if there is one."""
    rows, before = [], ""
    for figure in FIGURES:
        record = record_of(records, figure.fact)
        found = [_newest(record, row, figure.field) for row in figure.rows]
        places = dict.fromkeys(f"{one.date}, {one.processor}" for one, _ in found)
        script = _SCRIPTS.get(figure.fact, figure.fact.removeprefix("speed_") + ".py")
        shown = "" if figure.fact == before else f"`benchmarks/{script}`"
        before = figure.fact
        rows.append(
            [figure.what, figure.over, ", ".join(text for _, text in found), "; ".join(places), shown]
        )
    header = ["", "divided by that of", "ratio", "measured", "script"]
    return f"\n\n{table_of(header, rows)}\n\n"


def training(records: Records) -> str:
    """Return the tables of docs/speed.md for training, one for each processor."""
    header = ["", "batch", "images/s", "over by hand", "over Keras", "over `tf`", "memory over by hand"]
    header += ["waits for data", "measured"]

    def cells(row: Row) -> list[str]:
        precision = "" if row["precision"] == "float32" else f", {row['precision']}"
        size = row.get("size", 384)  # records from before 2026-11-30 do not say it
        shown = "" if size == 384 else f", {size}x{size}"
        return [
            f"`{row['framework']}`, {_NETWORKS[row['network']]}{precision}{shown}",
            str(row["batch_size"]),
            number(row.get("images_per_s"), ".1f"),
            *(ratio(row.get(key)) for key in ("over_by_hand", "over_keras", "over_tf")),
            number(row.get("memory_over_by_hand"), ".2f"),
            number(row.get("waits"), ".2%").replace("%", " %"),
        ]

    return by_machine(record_of(records, "speed_training"), header, cells)


_CONTENDERS = {
    "ours": "ours, warm",
    "memory": "`numpy.take` from memory: the limit",
    "tf.data": "`tf.data` from memory",
    "torch": "PyTorch `DataLoader`, two workers, our file",
    "h5py": "h5py, sorted indices",
}


def loader(records: Records) -> str:
    """Return the tables of docs/speed.md for the loader, one for each processor."""

    def cells(row: Row) -> list[str]:
        return [
            _CONTENDERS.get(row["contender"], row["contender"]),
            row["storage"],
            number(row.get("images_per_s"), ",.0f"),
            "1" if row["contender"] == "memory" else ratio(row.get("over_memory")),
            ratio(row.get("over_torch")),
            number(row.get("memory_mb"), ".0f"),
        ]

    header = ["", "file", "images/s", "over memory", "over the `DataLoader`", "MB", "measured"]
    return by_machine(record_of(records, "speed_loader"), header, cells)


def prediction(records: Records) -> str:
    """Return the table of docs/speed.md for predictions by the network alone."""

    def cells(row: Row) -> list[str]:
        return [
            f"`{row['framework']}`, {_NETWORKS[row['network']]}, batches of {row['batch_size']}",
            number(row.get("images_per_s"), ".0f"),
            ratio(row.get("over_tf")),
        ]

    return on_machines(record_of(records, "speed_prediction"), ["", "images/s", "over `tf`"], cells)


def predict_command(records: Records) -> str:
    """Return the table of docs/speed.md for predictions from DICOM to masks."""
    kinds = ("read", "network", "conclude", "command")

    def cells(row: Row) -> list[str]:
        numbers = [number(row.get(f"{kind}_ms"), ".1f") for kind in kinds]
        return [f"`{row['framework']}`", *numbers, ratio(row["over_sum"])]

    header = ["ms an image", "reading", "network", "masks", "the command", "over the sum of the parts"]
    return on_machines(record_of(records, "speed_predict_command"), header, cells)


def start(records: Records) -> str:
    """Return the table of docs/speed.md for start-up times."""

    def cells(row: Row) -> list[str]:
        what = f"first update of `{row['what']}`, over importing and doing it by hand"
        if row["what"] == "--help":
            what = "`--help`, over `import numpy`"
        return [what, number(row.get("seconds"), ".1f"), ratio(row.get("over"))]

    return on_machines(record_of(records, "speed_start"), ["", "s", "ratio"], cells)


def scaling(records: Records) -> str:
    """Return the table of docs/speed.md for scaling: minimum and maximum over all sizes."""

    def cells(row: Row) -> list[str]:
        if row["what"] == "images":
            what = f"an epoch over {row['from']:,} to {row['to']:,} images of 64x64"
            return [
                what,
                f"{span(row['ms'], '.1f')} for each 1,000",
                f"{span(row['memory_mb'], '.0f')} in all",
            ]
        small, of = row["smallest"], f"{row['from']}x{row['from']} to {row['to']}x{row['to']}"
        return [
            f"a training step of `{row['framework']}`, {of}",
            f"{span(row['ms'], '.0f')} a megapixel ({small}x{small}: {row['smallest_ms']:.0f})",
            f"{span(row['memory_mb'], '.0f')} more for each further megapixel",
        ]

    return on_machines(record_of(records, "speed_scaling"), ["", "ms", "MB"], cells)


def workers(records: Records) -> str:
    """Return the table of docs/speed.md for several workers, and for a batch in shards."""

    def cells(row: Row) -> list[str]:
        return [
            f"`{row['framework']}`, {_NETWORKS[row['network']]}",
            *(ratio(row[name]) for name in ("workers", "exchange", "time_of_shards", "memory_of_shards")),
        ]

    header = ["", "2 workers over 1", "exchange", "4 shards, time", "4 shards, memory"]
    return on_machines(record_of(records, "speed_workers"), header, cells)


def expected_workers(records: Records) -> str:
    """Return the table of docs/speed.md with the expected efficiency of many cards."""
    record = record_of(records, "speed_workers")
    cases = list(record[0].rows[0]["expected"])

    def cells(row: Row) -> list[str]:
        efficiencies = [f"{row['expected'][case]:.2f}" for case in cases]
        return [f"`{row['framework']}`, {_NETWORKS[row['network']]}", *efficiencies]

    return on_machines(record, ["", *cases], cells)


def preprocessing(records: Records) -> str:
    """Return the table of docs/speed.md for preprocessing by the whole command, for each core."""

    def cells(row: Row) -> list[str]:
        return [
            f"{row['count']:,} radiographs, {row['storage']}",
            ratio(row["over_limit"]),
            ratio(row["over_loop"]),
        ]

    header = ["for each core", "over bare decoding and resizing", "over `pixel_array`, `cv2.resize`, append"]
    return on_machines(record_of(records, "speed_preprocessing"), header, cells)


def _newest(record: Record, where: Mapping[str, Any], field: str) -> tuple[Measurement, str]:
    """Return a field as text, from the newest row with these values, if possible of a quiet machine."""
    found = [
        (one.quiet, one.date, number, one, row[field])
        for number, one in enumerate(record)
        for row in one.rows
        if field in row and all(row.get(key) == value for key, value in where.items())
    ]
    if not found:
        raise UserError(f"no row of the record has {field} for {dict(where)}")
    *_, one, value = max(found, key=lambda item: item[:3])
    middle = value if isinstance(value, float) else value[0]
    return one, f"{middle:.2f}" if middle < 2.5 else f"{middle:.1f}"
