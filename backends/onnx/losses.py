"""The losses of `core.backend.training_rules` as ONNX operators."""

from __future__ import annotations

from collections.abc import Callable

from backends.onnx.graph import Graph
from backends.onnx.operations import Value
from core.backend.training_rules import LossRule


class Losses:
    """The losses of logits and masks, both (N, 1, H, W) float32.

    Args:
        graph: The graph that they are added to.
        logits: The name of the logits.
        masks: The name of the masks, in {0, 1}.
        existence: The name of the existence head's logits, (N, 1, 1, 1) float32; None without the head.
    """

    def __init__(self, graph: Graph, logits: Value, masks: Value, existence: Value | None = None) -> None:
        self._graph, self._x, self._z, self._existence = graph, logits, masks, existence

    def bce(self) -> Value:
        """Return the mean binary cross-entropy."""
        return self._mean(self._do("Sub", self._do("Softplus", self._x), self._do("Mul", self._x, self._z)))

    def dice(self) -> Value:
        """Return 1 less the soft Dice over the batch, with smoothing 1."""
        p, one = self._do("Sigmoid", self._x), self._number(1)
        overlap = self._do("Add", self._twice(self._sum(self._do("Mul", p, self._z))), one)
        both = self._do("Add", self._do("Add", self._sum(p), self._sum(self._z)), one)
        return self._do("Sub", one, self._do("Div", overlap, both))

    def focal(self, gamma: float) -> Value:
        """Return the mean cross-entropy with each pixel weighted by its error, to the power `gamma`."""
        x = self._do("Mul", self._x, self._signs(self._z))
        weight = self._do("Exp", self._do("Mul", self._number(-gamma), self._do("Softplus", x)))
        return self._mean(self._do("Mul", weight, self._do("Softplus", self._do("Neg", x))))

    def tversky(self, alpha: float, beta: float) -> Value:
        """Return 1 less the soft Tversky index over the batch, with smoothing 1.

        `alpha` weights false positives, `beta` false negatives.
        """
        p, one = self._do("Sigmoid", self._x), self._number(1)
        found = self._do("Add", self._twice(self._sum(self._do("Mul", p, self._z))), one)
        positives = self._sum(self._do("Mul", p, self._do("Sub", one, self._z)))
        negatives = self._sum(self._do("Mul", self._do("Sub", one, p), self._z))
        false = self._do(
            "Add",
            self._do("Mul", self._number(alpha), positives),
            self._do("Mul", self._number(beta), negatives),
        )
        all_ = self._do("Add", found, self._twice(false))
        return self._do("Sub", one, self._do("Div", found, all_))

    def lovasz(self) -> Value:
        """Return the mean of the images' Lovasz hinges. `TopK` keeps pixels of equal error in order."""
        flat, one = self._graph.integers(0, -1), self._number(1)
        truth, x = self._do("Reshape", self._z, flat), self._do("Reshape", self._x, flat)
        errors = self._do("Sub", one, self._do("Mul", x, self._signs(truth)))
        pixels = self._do("Gather", self._do("Shape", errors), self._graph.integers(1))
        errors, order = self._graph.nodes("TopK", errors, pixels, outputs=["lovasz/errors", "lovasz/order"])
        steps = self._jaccard_steps(self._graph.node("GatherElements", truth, order, axis=1))
        return self._mean(self._sum_of_each(self._do("Mul", self._do("Relu", errors), steps)))

    def total(self, rule: LossRule) -> Value:
        """Return the weighted sum of the rule's losses, and of the existence head's if there is one."""
        losses: dict[str, Callable[..., Value]] = {
            "bce": self.bce,
            "dice": self.dice,
            "focal": self.focal,
            "tversky": self.tversky,
            "lovasz": self.lovasz,
        }
        weighted = [
            self._do("Mul", self._number(weight), losses[name](*constants))
            for weight, name, constants in rule.parts()
        ]
        if self._existence is not None:
            truth = self._graph.node("ReduceMax", self._z, axes=(1, 2, 3), keepdims=1)
            loss = Losses(self._graph, self._existence, truth).bce()
            weighted.append(self._do("Mul", self._number(rule.existence), loss))
        return self._graph.node("Sum", *weighted, name="loss")

    def _jaccard_steps(self, truth: Value) -> Value:
        """Return what each pixel adds to the Jaccard loss; (N, pixels), from the largest error down."""
        one, axis = self._number(1), self._graph.integers(1)
        positives = self._graph.node("ReduceSum", truth, axis, keepdims=1)

        def before(x: Value) -> Value:
            return self._graph.node("CumSum", x, axis, exclusive=1)

        left = self._do("Sub", positives, before(truth))
        union = self._do("Add", positives, before(self._do("Sub", one, truth)))
        # In an image without truth the union before the first pixel is 0; this pixel adds the whole loss.
        safe = self._do("Max", union, one)
        of_false = self._do("Div", left, self._do("Mul", safe, self._do("Add", union, one)))
        zero = self._number(0)
        steps = self._do("Where", self._do("Greater", truth, zero), self._do("Div", one, safe), of_false)
        return self._do("Where", self._do("Greater", union, zero), steps, one)

    def _do(self, kind: str, *inputs: Value) -> Value:
        return self._graph.node(kind, *inputs)

    def _number(self, value: float) -> Value:
        return self._graph.number(value)

    def _twice(self, x: Value) -> Value:
        return self._do("Mul", self._number(2), x)

    def _signs(self, truth: Value) -> Value:
        """Return 1 where there is truth, else -1."""
        return self._do("Sub", self._twice(truth), self._number(1))

    def _sum(self, x: Value) -> Value:
        return self._graph.node("ReduceSum", x, keepdims=0)

    def _sum_of_each(self, x: Value) -> Value:
        return self._graph.node("ReduceSum", x, self._graph.integers(1), keepdims=0)

    def _mean(self, x: Value) -> Value:
        return self._graph.node("ReduceMean", x, keepdims=0)
