"""`python run.py config NAME`: check a configuration and show it, its network and its memory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.base.programs import command_line
from core.commands.shared.options import add_configuration_options, overrides
from core.commands.shared.parser import only_with
from core.commands.shared.statuses import Status

if TYPE_CHECKING:
    from core.experiment.configuration import Configuration, Training
    from core.network.plan import Plan
    from core.training.memory_estimate import MemoryEstimate

HELP = "check a configuration and print it in full, with the network and the memory of training"

_SIZE = "384"  # the default of preprocess.py
_PARTS = {
    "state": "parameters, running statistics and the optimiser's moments",
    "gradients": "gradients of the parameters",
    "batch": "images and masks, with the batches read ahead",
    "activations": "activations, kept for the backward pass",
    "transient": "gradients of activations, temporary arrays, a convolution's workspace",
}
_NOT_COVERED = """\
The arrays of one update are counted from shapes. The last line adds the overhead measured in processes of
TensorFlow and PyTorch (buffers of kernels, freed memory); measured peaks were 0.8 to 1.3 times this estimate.
Not included: the framework's import (0.3 to 0.7 GB), a GPU's driver and libraries, the end of an epoch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a configuration of the toolkit, or a YAML file; without NAME the toolkit's are listed",
    )
    add_configuration_options(parser)
    parser.add_argument(
        "--size",
        default=_SIZE,
        metavar="N|HxW",
        help="height and width of the images; the network and its memory depend on it",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    for word in ("--set", "--size", "--epochs", "--batch-size", "--learning-rate"):
        only_with(parser, word, "name")
    for word in ("--precision", "--seed", "--folds", "--fold"):
        only_with(parser, word, "name")


def run(arguments: argparse.Namespace) -> Status:
    """Print the configuration; an invalid one raises the same error as in `train`."""
    import json

    if arguments.name is None:
        found: Any = _own()
        text = _listed(found)
    else:
        from core.experiment.configuration import load_configuration
        from core.network.lowering import lower

        configuration = load_configuration(Path(arguments.name), overrides(arguments))
        given = _size(arguments.size)
        stages = [_StageMemory.of(one, given) for one in configuration.in_stages()]
        plan = lower(configuration.network, *stages[-1].size)
        found = _as_json(arguments.name, configuration, plan, stages)
        text = _as_text(arguments, configuration, plan, stages)
    print(json.dumps(found, indent=1) if arguments.json else text)
    return Status.DONE


class _StageMemory(NamedTuple):
    """The memory of training one stage, or a training without stages.

    Attributes:
        name: "stage 1 of 2, images of 256x256"; "" without stages.
        training: Its settings.
        size: Height and width of its images.
        estimate: The estimate.
    """

    name: str
    training: Training
    size: tuple[int, int]
    estimate: MemoryEstimate

    @classmethod
    def of(cls, configuration: Configuration, given: tuple[int, int]) -> _StageMemory:
        """Return the memory of a configuration, for images of the given size if it names no other."""
        from core.training.memory_estimate import estimate_training

        training = configuration.training
        size = given if training.size is None else (training.size, training.size)
        estimate = estimate_training(
            configuration.training_plan(*size),
            training.rules(),
            training.batch_size,
            training.precision,
            training.shards,
        )
        name = ""
        if training.stage is not None:
            name = f"stage {training.stage} of {len(training.stages)}, images of {size[0]}x{size[1]}"
        return cls(name, training, size, estimate)

    def as_json(self) -> dict[str, Any]:
        """Return the content for programs."""
        import dataclasses

        return {
            "batch_size": self.training.batch_size,
            "precision": self.training.precision,
            "bytes": dataclasses.asdict(self.estimate),
            "bytes_of_arrays": self.estimate.arrays,
            "bytes_of_process_on_cpu": self.estimate.process,
        }


def _own() -> list[dict[str, str]]:
    from core.experiment.configuration import description
    from core.experiment.shipped_configurations import shipped_configurations

    return [
        {"name": name, "file": f"configs/{path.name}", "description": description(path)}
        for name, path in shipped_configurations().items()
    ]


def _listed(found: Sequence[dict[str, str]]) -> str:
    width = max(len(one["name"]) for one in found)
    lines = [f"{one['name']:<{width}}  {one['description']}" for one in found]
    return "\n".join(
        [*lines, "", f"Show one: {command_line('config', 'NAME')}. Train with it: --config NAME."]
    )


def _size(text: str) -> tuple[int, int]:
    import re

    from core.base.errors import UserError

    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if match is None:
        raise UserError(f"--size: expected N or HEIGHTxWIDTH, as 384 or 512x384. Received: {text!r}")
    return int(match[1]), int(match[2] or match[1])


def _as_json(
    name: str, configuration: Configuration, plan: Plan, stages: Sequence[_StageMemory]
) -> dict[str, Any]:
    from core.network.summary import multiply_adds, summarise_plan

    outputs = {block: op.output for block, last in plan.blocks for op in plan.operations if op.name == last}
    blocks = [
        {
            "name": row.name,
            "operations": row.operations.split(", "),
            "output": [outputs[row.name].height, outputs[row.name].width, outputs[row.name].channels],
            "parameters": row.parameters,
        }
        for row in summarise_plan(plan)
    ]
    return {
        "name": name,
        "configuration": configuration.model_dump(mode="json"),
        "network": {
            "input": [plan.input.height, plan.input.width, plan.input.channels],
            "blocks": blocks,
            "parameters": sum(parameter.size for parameter in plan.parameters),
            "multiply_adds": multiply_adds(plan),
        },
        "memory": max(stages, key=lambda stage: stage.estimate.arrays).as_json(),
        "stages": [
            {"height": stage.size[0], "width": stage.size[1], **stage.as_json()}
            for stage in stages
            if stage.name
        ],
    }


def _as_text(
    arguments: argparse.Namespace, configuration: Configuration, plan: Plan, stages: Sequence[_StageMemory]
) -> str:
    """Return the configuration as YAML, with network and memory as comments, so the text is valid YAML."""
    from core.base.standard_streams import visible
    from core.experiment.configuration import as_yaml

    title = " with ".join(filter(None, (arguments.name, ", ".join(overrides(arguments)))))
    comments = [*_network(plan), ""]
    for stage in stages:
        comments += [*_memory(stage), ""]
    comments += _NOT_COVERED.splitlines()
    shown = "\n".join(f"# {line}".rstrip() for line in comments)
    return f"# {visible(title)}: every key\n{as_yaml(configuration)}\n{shown}"


def _network(plan: Plan) -> list[str]:
    from core.network.summary import multiply_adds, summarise_plan

    rows = summarise_plan(plan)
    total = sum(row.parameters for row in rows)
    cells = [("block", "operations", "output", "parameters")]
    cells += [(row.name, row.operations, row.output, f"{row.parameters:,}") for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"Network for images of {plan.input}: {total:,} parameters, "
        f"{multiply_adds(plan) / 1e9:,.4g} billion multiply-adds an image",
        "",
        *(
            f"{name:<{widths[0]}}  {ops:<{widths[1]}}  {output:>{widths[2]}}  {number:>{widths[3]}}"
            for name, ops, output, number in cells
        ),
    ]


def _memory(stage: _StageMemory) -> list[str]:
    training, estimate = stage.training, stage.estimate
    parts = [(what, getattr(estimate, name)) for name, what in _PARTS.items()]
    lines = [*parts, ("all arrays", estimate.arrays), ("process on a CPU, about", estimate.process)]
    width = max(len(what) for what, _ in lines)
    where = f", {stage.name}" if stage.name else ""
    return [
        f"Memory of training in batches of {training.batch_size}, {training.precision}{where}: an estimate",
        "",
        *(f"{what:<{width}}  {number / 1e6:>10,.1f} MB" for what, number in lines),
    ]
