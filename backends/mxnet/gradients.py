"""MXNet's own gradients as operations of a graph, instead of autograd's.

The results are those of autograd to the last digit. There are two reasons to write the gradients out. They
can be given inputs that autograd would not give them, such as exact statistics for batch norm. And MXNet
plans the memory of forward and backward as one, and frees each array as soon as it is not needed.

The gradient of MXNet's operation X is its operation `_backward_X`. This needs the attributes of its forward
node, and an edge to that node which carries no data but tells it the shapes. MXNet has no public function for
either. So `new_node` makes the node by the call that the functions of `mx.sym` make in the end, and
`linked_graph` puts the edges into the graph's JSON. It also finds results that symbols hide.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from backends.mxnet.framework import make_symbol, mx

Symbol = Any
"""An `mx.sym.Symbol`; MXNet ships no type information."""

_BACKWARD, _SUFFIX = "_backward_", "/backward"

_HIDDEN = {"Pooling": 4}
"""The input of an operation's gradient that is the operation's second result, which symbols hide."""


class Result(NamedTuple):
    """A value and its pullback: the function from the gradient of the value to those of its inputs."""

    value: Symbol
    pullback: Callable[[Symbol], tuple[Symbol, ...]]


Step = Callable[[Symbol], Result]
"""An operation of one array: a function from the array to the result."""


def gradient(kind: str, forward: Symbol, *inputs: Symbol, **other: str) -> tuple[Symbol, ...]:
    """Return all results of `_backward_<kind>` for the node `forward`. MXNet's sources list its inputs.

    `other` are attributes that differ from those of `forward`. Where the input is the second result of
    `forward`, which symbols hide, pass `forward`.
    """
    attributes = {**forward.list_attr(), **other}
    return tuple(new_node(_BACKWARD + kind, inputs, attributes, forward.name + _SUFFIX))


def new_node(kind: str, inputs: Sequence[Symbol], attributes: Mapping[str, str], name: str) -> Symbol:
    """Make a node of any operator of MXNet, whether in `mx.sym` or not; attributes are passed as text."""
    handle = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.NNGetOpHandle(mx.base.c_str(kind), ctypes.byref(handle)))
    return make_symbol(handle.value, inputs, None, list(attributes), list(attributes.values()), name, False)


def linked_graph(results: list[Symbol]) -> Symbol:
    """Group the results into one graph with an edge from every gradient to its forward node.

    The graph itself has no gradient.
    """
    graph = json.loads(mx.sym.Group(results).tojson(remove_amp_cast=False))
    places = {node["name"]: place for place, node in enumerate(graph["nodes"])}
    for node in graph["nodes"]:
        if node["op"].startswith(_BACKWARD):
            node["control_deps"] = [places[node["name"].removesuffix(_SUFFIX)]]
            if (hidden := _HIDDEN.get(node["op"].removeprefix(_BACKWARD))) is not None:
                place, _, version = node["inputs"][hidden]
                node["inputs"][hidden] = [place, 1, version]
    return mx.sym.load_json(json.dumps(graph))


def compose(x: Symbol, *steps: Step) -> Result:
    """Apply one step after the other."""
    pullbacks = []
    for step in steps:
        x, one = step(x)
        pullbacks.append(one)

    def pullback(dy: Symbol) -> tuple[Symbol]:
        for one in reversed(pullbacks):
            (dy,) = one(dy)
        return (dy,)

    return Result(x, pullback)


def identity(x: Symbol) -> Result:
    """Return x itself."""
    return Result(x, lambda dy: (dy,))


def reshaped(*shape: int) -> Step:
    """Reshape as `mx.sym.reshape` does, with its special numbers."""
    return lambda x: Result(mx.sym.reshape(x, shape=shape), lambda dy: (mx.sym.reshape_like(dy, x),))


def transposed(*axes: int) -> Step:
    """Put the axes in another order."""
    back = tuple(axes.index(axis) for axis in range(len(axes)))
    return lambda x: Result(mx.sym.transpose(x, axes=axes), lambda dy: (mx.sym.transpose(dy, axes=back),))


def reversed_along(*axes: int) -> Step:
    """Reverse the order of the elements along these axes."""
    return lambda x: Result(mx.sym.reverse(x, axis=axes), lambda dy: (mx.sym.reverse(dy, axis=axes),))


def padded(height: tuple[int, int], width: tuple[int, int]) -> Step:
    """Add zeros before and after the last two of four axes."""
    (top, bottom), (left, right) = height, width
    widths = (0, 0, 0, 0, top, bottom, left, right)
    begin, end = (None, None, top, left), (None, None, -bottom or None, -right or None)
    return lambda x: Result(
        mx.sym.pad(x, mode="constant", pad_width=widths),
        lambda dy: (mx.sym.slice(dy, begin=begin, end=end),),
    )


def cropped(first: Sequence[int], size: Sequence[int]) -> Step:
    """Take the `size` pixels from `first` on along height and width."""
    ends = [begin + length for begin, length in zip(first, size, strict=True)]

    def cut(x: Symbol) -> Result:
        y = mx.sym.slice(x, begin=(None, None, *first), end=(None, None, *ends))
        return Result(y, lambda dy: gradient("slice", y, dy))

    return cut


def first_along(axis: int, count: int) -> Step:
    """Take the first `count` elements along an axis."""

    def cut(x: Symbol) -> Result:
        y = mx.sym.slice_axis(x, axis=axis, begin=0, end=count)
        return Result(y, lambda dy: gradient("slice_axis", y, dy))

    return cut


def with_zeros(count: int) -> Step:
    """Append `count` zeros along the first axis."""
    if not count:
        return identity

    def join(x: Symbol) -> Result:
        zeros = mx.sym.zeros_like(mx.sym.slice_axis(x, axis=0, begin=0, end=1))
        y = mx.sym.concat(x, mx.sym.broadcast_axis(zeros, axis=0, size=count), dim=0)
        return Result(y, lambda dy: (mx.sym.slice_axis(dy, axis=0, begin=0, end=-count),))

    return join
