"""MXNet's own gradients as operations of a graph, where autograd would put them by itself.

Promises: what autograd computes, to the last digit. Written out, a gradient can be given what autograd would
not give it, such as exact statistics to batch norm's; and MXNet plans the memory of forward and backward as
one, and forgets each array as soon as it may.

MXNet has the gradient of an operation X as the operation `_backward_X`. It wants the attributes of its
forward node and an edge to it that carries no data, which tells it the shapes. Neither has a public name:
such a node is made by what the functions of `mx.sym` end in (`new_node`), and the edge is put into the
graph's JSON.
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


class Result(NamedTuple):
    """A value, and what turns its gradient into those of all that it was made of."""

    value: Symbol
    pullback: Callable[[Symbol], tuple[Symbol, ...]]


Step = Callable[[Symbol], Result]
"""Result of one array."""


def gradient(kind: str, forward: Symbol, *inputs: Symbol, **other: str) -> tuple[Symbol, ...]:
    """All results of `_backward_<kind>` for the node `forward`; MXNet's sources tell its inputs.

    `other` are attributes that differ from those of `forward`.
    """
    attributes = {**forward.list_attr(), **other}
    return tuple(new_node(_BACKWARD + kind, inputs, attributes, forward.name + _SUFFIX))


def new_node(kind: str, inputs: Sequence[Symbol], attributes: Mapping[str, str], name: str) -> Symbol:
    """A node of any operator that MXNet has, `mx.sym` or not, with its attributes as they are spelled."""
    handle = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.NNGetOpHandle(mx.base.c_str(kind), ctypes.byref(handle)))
    return make_symbol(handle.value, inputs, None, list(attributes), list(attributes.values()), name, False)


def complete(results: list[Symbol]) -> Symbol:
    """The graph of all these, in which every gradient knows its forward node. It has no gradient itself."""
    graph = json.loads(mx.sym.Group(results).tojson(remove_amp_cast=False))
    places = {node["name"]: place for place, node in enumerate(graph["nodes"])}
    for node in graph["nodes"]:
        if node["op"].startswith(_BACKWARD):
            node["control_deps"] = [places[node["name"].removesuffix(_SUFFIX)]]
    return mx.sym.load_json(json.dumps(graph))


def through(x: Symbol, *steps: Step) -> Result:
    """One step after the other."""
    pullbacks = []
    for step in steps:
        x, one = step(x)
        pullbacks.append(one)

    def pullback(dy: Symbol) -> tuple[Symbol]:
        for one in reversed(pullbacks):
            (dy,) = one(dy)
        return (dy,)

    return Result(x, pullback)


def same(x: Symbol) -> Result:
    """Nothing happens."""
    return Result(x, lambda dy: (dy,))


def reshaped(*shape: int) -> Step:
    """`mx.sym.reshape`, with its special numbers."""
    return lambda x: Result(mx.sym.reshape(x, shape=shape), lambda dy: (mx.sym.reshape_like(dy, x),))


def transposed(*axes: int) -> Step:
    """The axes in another order."""
    back = tuple(axes.index(axis) for axis in range(len(axes)))
    return lambda x: Result(mx.sym.transpose(x, axes=axes), lambda dy: (mx.sym.transpose(dy, axes=back),))


def reversed_along(*axes: int) -> Step:
    """Those axes from the end to the beginning."""
    return lambda x: Result(mx.sym.reverse(x, axis=axes), lambda dy: (mx.sym.reverse(dy, axis=axes),))


def padded(height: tuple[int, int], width: tuple[int, int]) -> Step:
    """Zeros before and behind the last two of four axes."""
    (top, bottom), (left, right) = height, width
    widths = (0, 0, 0, 0, top, bottom, left, right)
    begin, end = (None, None, top, left), (None, None, -bottom or None, -right or None)
    return lambda x: Result(
        mx.sym.pad(x, mode="constant", pad_width=widths),
        lambda dy: (mx.sym.slice(dy, begin=begin, end=end),),
    )


def window(first: Sequence[int], size: Sequence[int]) -> Step:
    """The `size` pixels from `first` on along height and width."""
    ends = [begin + length for begin, length in zip(first, size, strict=True)]

    def cut(x: Symbol) -> Result:
        y = mx.sym.slice(x, begin=(None, None, *first), end=(None, None, *ends))
        return Result(y, lambda dy: gradient("slice", y, dy))

    return cut


def first_along(axis: int, count: int) -> Step:
    """The first elements along an axis."""

    def cut(x: Symbol) -> Result:
        y = mx.sym.slice_axis(x, axis=axis, begin=0, end=count)
        return Result(y, lambda dy: gradient("slice_axis", y, dy))

    return cut


def with_zeros(count: int) -> Step:
    """So many zeros more along the first axis."""
    if not count:
        return same

    def join(x: Symbol) -> Result:
        zeros = mx.sym.zeros_like(mx.sym.slice_axis(x, axis=0, begin=0, end=1))
        y = mx.sym.concat(x, mx.sym.broadcast_axis(zeros, axis=0, size=count), dim=0)
        return Result(y, lambda dy: (mx.sym.slice_axis(dy, axis=0, begin=0, end=-count),))

    return join
