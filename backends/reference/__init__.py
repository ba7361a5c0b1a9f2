"""NumPy: the judge of the other backends. Slow, plain, and exact to the rules of `core`."""

from core.contract import Backend

backend = Backend(
    name="reference",
    title="NumPy",
    module=None,
    distributions=("numpy",),
    install="pip install -e . -c constraints.txt",
    implementation="backends.reference.model",
)
