"""Choice of the backend that predicts when the user names none."""

from __future__ import annotations

from collections.abc import Sequence

from core.backend.availability import probe
from core.backend.contract import Backend
from core.backend.devices import choose_device
from core.backend.registry import prediction_backends
from core.base.errors import UserError
from core.prediction.trained_models import Member


def choose_predictor(members: Sequence[Member], device: str = "auto") -> Backend:
    """Return the first installed backend that can predict with some models on the requested device.

    Raises:
        UserError: No backend can; the message lists the backends and the reasons.
    """
    precisions = {member.checkpoint.configuration.training.precision for member in members}
    (first, *others) = sorted(precisions)
    candidates = [
        backend
        for backend in prediction_backends(first)
        if all(precision in backend.precisions for precision in others)
    ]
    refusals = []
    for backend in candidates:
        if (refusal := _refusal(backend, device)) is None:
            return backend
        refusals.append(f"{backend.name}: {refusal}")
    reasons = "\n  ".join(refusals) or f"none predicts in {', '.join(sorted(precisions))}"
    raise UserError(f"no installed backend can predict with this model on {device!r}:\n  {reasons}")


def _refusal(backend: Backend, device: str) -> str | None:
    """Return why a backend cannot compute on a device, or None. The framework is loaded for GPUs only."""
    if device in ("auto", "cpu"):
        return None
    found = probe(backend.name)
    if found.error is not None:
        return found.error
    try:
        choose_device(device, found.devices, backend.title)
    except UserError as error:
        return error.message
    return None
