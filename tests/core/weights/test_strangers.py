"""Networks of Keras, Gluon and PyTorch, taken over whole: every backend computes what their own code did.

In float64 an odd size is compared at the last feature map, since a pad at the wrong side shows there. In
float32 all stages are compared: each is projected to one channel, enlarged and added, so that the map shows
an error of any stage. (SqueezeNet does not pad, so only its last stage is compared.)
PNEUMOSEG_CHECKS=all compares every network on every backend; otherwise a third of the pairs has its turn each
day, and in `make test` a seventh of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from selected import BACKENDS, PREDICTORS
from strangers import STRANGERS, Features, image
from turns import due, has_turn
from written import Blocks, network, squeezenet_names, stages

from core.backend.contract import Implementation, Precision
from core.backend.process import BackendProcess
from core.backend.registry import load_backend
from core.backend.state import initial_state
from core.backend.weight_files import FileLayers
from core.experiment.configuration import Training
from core.network.lowering import lower_blocks
from core.network.plan import Plan
from core.weights.files import read_layers
from core.weights.names import NamesFile
from core.weights.transfer import Fit, fit

pytestmark = pytest.mark.turns(7)

ODD, EVEN = (43, 59), (32, 64)
PAIRS = [(name, backend) for backend in PREDICTORS for name in STRANGERS]
PLAIN = {"batch_norm": False, "bias": False, "activation": "none"}
RULES = Training().rules()
SUFFIXES = {"ResNet50": ".weights.h5", "MobileNetV2": ".keras"}


def chosen() -> list[tuple[str, str]]:
    """Return the pairs whose turn it is."""
    place = {name: number for number, name in enumerate(STRANGERS)}
    return [(name, one) for name, one in PAIRS if has_turn(place[name] + PREDICTORS.index(one), 3)]


class Stranger(NamedTuple):
    """A stranger's file, what is read of it, and the features that its own code computes."""

    path: Path
    layers: FileLayers
    features: Features


def read(implementation: Implementation, path: Path) -> FileLayers:
    """Read a file in the process of its framework, which this process does not import."""
    del implementation
    return read_layers(path)


class Strangers:
    """The strangers' files and features, each computed once, and one backend's process at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: BackendProcess | None = None
        self._found: dict[tuple[str, tuple[int, int]], Stranger] = {}

    def __call__(self, name: str, size: tuple[int, int]) -> Stranger:
        if (name, size) not in self._found:
            backend, function, kind = STRANGERS[name]
            suffix = SUFFIXES.get(kind, ".params" if backend == "mxnet" else ".pth")
            path = self._folder / f"{name}-{size[0]}{suffix}"
            with BackendProcess(backend) as process:
                features = process.call(function, kind, path, *size)
                self._found[name, size] = Stranger(path, process.call(read, path), features)
        return self._found[name, size]

    def process(self, backend: str) -> BackendProcess:
        if self._process is None or self._process.name != backend:
            self.close()
            self._process = BackendProcess(backend)
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.close()


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strangers]:
    found = Strangers(tmp_path_factory.mktemp("strangers"))
    yield found
    found.close()


def fitted(plan: Plan, kind: str, stranger: Stranger) -> Fit:
    if kind != "squeezenet1_0":
        return fit(plan, stranger.layers)
    names = stranger.path.with_suffix(".yaml")
    listed: NamesFile = squeezenet_names()
    names.write_text(listed.model_dump_json(), encoding="utf-8")  # JSON is YAML
    return fit(plan, stranger.layers, str(names))


def tail(
    kind: str, features: Features, *, every_stage: bool
) -> tuple[Blocks, dict[str, NDArray[np.float32]]]:
    """Return blocks that turn the features into one map, and their kernels; see `expected`."""
    rng = np.random.default_rng(3)
    blocks: Blocks = []
    kernels = {}
    before = None
    for number, (block, joined) in list(enumerate(stages(kind)))[0 if every_stage else -1 :]:
        _, height, _, channels = features[number].shape
        scale = np.sqrt(channels * np.mean(features[number] ** 2))
        kernels[f"tap{number}/kernel"] = (rng.standard_normal((1, 1, channels, 1)) / scale).astype(np.float32)
        tap = {"name": f"tap{number}", "kind": "pointwise", "filters": 1, "source": block, "skip": joined}
        blocks.append(tap | PLAIN)
        if every_stage:
            blocks.append({"name": f"up{number}", "kind": "upsample", "factor": EVEN[0] // height})
        if before is not None:
            mix = {"name": f"mix{number}", "kind": "pointwise", "filters": 1, "skip": before}
            blocks.append(mix | PLAIN)
            kernels[f"mix{number}/kernel"] = np.ones((1, 1, 2, 1), np.float32)
        before = blocks[-1]["name"]
    kernels["mask/kernel"] = np.ones((1, 1, 1, 1), np.float32)
    mask = {"name": "mask", "kind": "output", "kernel": 1, "stride": 1, "transposed": False}
    return [*blocks, mask], kernels


def expected(features: Features, kernels: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the map: the sum over the stages of each one's projection, enlarged to the image."""
    total: Any = 0.0
    for number, stage in enumerate(features):
        if f"tap{number}/kernel" in kernels:
            projected = stage @ kernels[f"tap{number}/kernel"][0, 0].astype(np.float64)
            factor = EVEN[0] // stage.shape[1] if "tap0/kernel" in kernels else 1
            total = total + projected.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.asarray(total)


def predicted(
    implementation: Implementation,
    plan: Plan,
    state: dict[str, NDArray[np.float32]],
    size: tuple[int, int],
    precision: Precision,
) -> NDArray[np.float64]:
    """Return the map that a backend computes."""
    model = implementation.compile(plan, RULES, "cpu", precision)
    model.load_state(state)
    return np.asarray(model.predict(image(*size)), np.float64)


def distance(
    kind: str,
    stranger: Stranger,
    size: tuple[int, int],
    precision: Precision,
    backend: BackendProcess | None,
) -> float:
    """Return how far a backend's logits are from the stranger's, relative to their norm."""
    blocks, kernels = tail(kind, stranger.features, every_stage=size == EVEN and kind != "squeezenet1_0")
    plan = lower_blocks(network(kind, blocks), *size)
    found = fitted(plan, kind, stranger)
    assert not found.remarks
    state = initial_state(plan, RULES, 0) | found.arrays | kernels
    assert {layer.split("/")[0] for layer in kernels} | set(found.blocks) == {
        n.split("/")[0] for n in kernels
    } | {parameter.name.split("/")[0] for parameter in plan.parameters}
    if backend is None:
        map_ = predicted(load_backend("reference")[1], plan, state, size, precision)
    else:
        map_ = backend.call(predicted, plan, state, size, precision)
    wanted = expected(stranger.features, kernels)
    logits = np.log(map_ / (1 - map_))
    assert logits.shape == wanted.shape
    return float(np.linalg.norm(logits - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", due([*STRANGERS], 3))
def test_reference(strangers: Strangers, name: str) -> None:
    kind = STRANGERS[name][2]
    for size in (ODD, EVEN):
        assert distance(kind, strangers(name, size), size, "float64", None) < 1e-10


@pytest.mark.parametrize(("name", "backend"), chosen())
def test_backend(strangers: Strangers, name: str, backend: str) -> None:
    kind = STRANGERS[name][2]
    sizes = {size: strangers(name, size) for size in (EVEN, ODD)}
    process = strangers.process(backend)
    assert distance(kind, sizes[EVEN], EVEN, "float32", process) < 1e-5
    if backend in BACKENDS:  # ONNX Runtime has no convolution in float64
        assert distance(kind, sizes[ODD], ODD, "float64", process) < 1e-10
