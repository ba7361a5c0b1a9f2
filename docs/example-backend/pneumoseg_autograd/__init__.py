"""pneumoseg on HIPS autograd: the descriptor alone, so that listing backends imports no framework."""

from core.backend.contract import Backend

backend = Backend(
    name="autograd",
    title="HIPS autograd",
    module="autograd",
    distributions=("autograd",),
    install="pip install autograd",
    implementation="pneumoseg_autograd.model",
)
