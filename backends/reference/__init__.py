"""Backend in NumPy, the reference for all others: slow and simple, and exact to the rules of `core`."""

from core.backend.contract import Backend
from core.base.programs import installation

backend = Backend(
    name="reference",
    title="NumPy",
    module=None,
    distributions=("numpy",),
    install=installation(),
    implementation="backends.reference.model",
)
