"""`python run.py weights FILE --config NAME`: take over another program's weights, or write a model's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.shared.options import add_overwrite_option
from core.commands.shared.parser import only_with
from core.commands.shared.statuses import Status

if TYPE_CHECKING:
    from core.commands.shared.terminal import Terminal
    from core.weights.transfer import Fit

HELP = "take over the weights of a PyTorch, Keras or Gluon network, or write a model's encoder for PyTorch"

_SIZE = 256  # the names and shapes of arrays do not depend on it; strides and pads are compared at even sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="weights: .pth, .pt, .bin or .safetensors of PyTorch, .h5 or .keras of Keras, .params of Gluon; "
        "or efficientnet_lite0: those of the extra [encoder]",
    )
    parser.add_argument(
        "--config", type=Path, metavar="NAME", help="the configuration whose network gets the weights"
    )
    parser.add_argument(
        "--names",
        metavar="NAME|FILE",
        help="whose names the layers have (torchvision, cadene, efficientnet_pytorch, timm_efficientnet, "
        "keras_resnet, keras_mobilenet_v2, gluon_resnet), or a YAML file that lists them (default: detected)",
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="write the encoder of this trained model for PyTorch"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="the file to write (default: start.safetensors, for training.start_from; with --model "
        "encoder.pth, or any .safetensors)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any key of the configuration, as in network.encoder.stride_at=first; may be repeated",
    )
    only_with(parser, "--set", "config")
    add_overwrite_option(parser)


def run(arguments: argparse.Namespace) -> Status:
    """Read and write as the command line says."""
    from core.base.errors import UserError

    if (arguments.file is None) == (arguments.model is None):
        raise UserError(
            "expected a file of weights, or --model with the folder of a trained model",
            "FILE --config NAME takes weights over; --model DIR writes them.",
        )
    return _take_over(arguments) if arguments.model is None else _write(arguments)


def _take_over(arguments: argparse.Namespace) -> Status:
    from core.base.errors import UserError
    from core.base.programs import command_line
    from core.commands.shared.outputs import Input, OutputFile, claimed
    from core.commands.shared.progress import spinner
    from core.commands.shared.terminal import console
    from core.experiment.configuration import load_configuration
    from core.network.lowering import lower_blocks
    from core.weights.files import find_file, read_layers
    from core.weights.start_files import save_start_file
    from core.weights.transfer import fit, layers_of

    if arguments.config is None:
        raise UserError("--config is missing: which network gets the weights?")
    out = arguments.out or Path("start.safetensors")
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: expected a name that ends in .safetensors")
    source = find_file(arguments.file)
    configuration = load_configuration(arguments.config, arguments.set)
    plan = lower_blocks(configuration.network, _SIZE, _SIZE)
    with claimed(
        [OutputFile("--out", out, or_stream=False)], [Input("FILE", source)], overwrite=arguments.overwrite
    ):
        shown = console()
        with spinner(shown, "reading"):
            found = fit(plan, read_layers(source), arguments.names, str(source))
        save_start_file(out, found, source)
        _show(shown, found)
        trained = dict.fromkeys(layer.split("/")[0] for layer in layers_of(plan))
        random = [block for block in trained if block not in found.blocks]
        shown.result(
            f"Written: {out}, {found.part} from {source.name} ({found.zoo})"
            + (f"; random at the start: {_named(random)}" if random else ""),
            soft_wrap=True,
        )
        shown.result(
            "Train with it: "
            + command_line("train", f"--config {arguments.config} --set training.start_from={out}"),
            soft_wrap=True,
        )
    return Status.DONE


def _show(shown: Terminal, found: Fit) -> None:
    from rich.table import Table

    table = Table("layer", "from", "kernel", "numbers", "note")
    for row in found.rows:
        table.add_row(row.layer, row.source, "x".join(map(str, row.shape)), f"{row.numbers:,}", row.note)
    shown.result(table)
    numbers = sum(row.numbers for row in found.rows)
    shown.result(f"{len(found.rows)} layers of {len(found.blocks)} blocks, {numbers:,} numbers")
    if found.unused:
        shown.result(
            f"Not used, for a segmentation network has no place for it: {', '.join(found.unused)}",
            soft_wrap=True,
        )
    for remark in found.remarks:
        shown.result(remark, soft_wrap=True)


def _named(blocks: list[str]) -> str:
    return ", ".join(blocks) if len(blocks) <= 4 else f"{blocks[0]} to {blocks[-1]} ({len(blocks)} blocks)"


def _write(arguments: argparse.Namespace) -> Status:
    from core.base.errors import UserError
    from core.commands.shared.outputs import OutputFile, claimed, model
    from core.commands.shared.terminal import console
    from core.network.lowering import lower_blocks
    from core.prediction.trained_models import find_members
    from core.weights.writing import as_state_dict, naming_for, write

    if arguments.config is not None:
        raise UserError("--config has no effect with --model: the model's folder holds its configuration")
    out = arguments.out or Path("encoder.pth")
    members = find_members([arguments.model])
    if len(members) > 1:
        raise UserError(f"--model {arguments.model} holds {len(members)} folds", "Name one: DIR/fold0")
    checkpoint = members[0].checkpoint
    plan = lower_blocks(checkpoint.configuration.network, checkpoint.data.height, checkpoint.data.width)
    naming = naming_for(plan, arguments.names)
    with claimed(
        [OutputFile("--out", out, or_stream=False)], [model(arguments.model)], overwrite=arguments.overwrite
    ):
        arrays = as_state_dict(plan, checkpoint.arrays, naming)
        write(out, arrays)
    numbers = sum(array.size for array in arrays.values())
    shown = console()
    shown.result(
        f"Written: {out}, the encoder with names as in {naming.title}: {len(arrays)} arrays, "
        f"{numbers:,} numbers",
        soft_wrap=True,
    )
    shown.result(
        "Load it in PyTorch: load_state_dict(torch.load(FILE, weights_only=True), strict=False)",
        soft_wrap=True,
    )
    return Status.DONE
