"""Apache MXNet: symbols run through `CachedOp`."""

from core.backend.contract import Backend
from core.base.programs import installation

backend = Backend(
    name="mxnet",
    title="Apache MXNet",
    module="mxnet",
    distributions=("mxnet", "mxnet-cu117", "mxnet-cu112"),
    # Without its dependencies, of which it says that NumPy must be below 2.
    install=f"{installation('mxnet')} && pip install --no-deps mxnet==1.9.1",
    implementation="backends.mxnet.model",
    exports=("mxnet",),
)
