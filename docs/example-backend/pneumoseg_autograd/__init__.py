"""The descriptor of the backend for HIPS autograd; importing it does not import the framework."""

from core.backend.contract import Backend

backend = Backend(
    name="autograd",
    title="HIPS autograd",
    module="autograd",
    distributions=("autograd",),
    install="pip install autograd",
    implementation="pneumoseg_autograd.model",
)
