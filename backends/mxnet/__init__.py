"""Apache MXNet: symbols run through `CachedOp`."""

from core.contract import Backend
from core.programs import installation

backend = Backend(
    name="mxnet",
    title="Apache MXNet",
    module="mxnet",
    distributions=("mxnet", "mxnet-cu117", "mxnet-cu112"),
    install=installation("mxnet"),
    implementation="backends.mxnet.model",
    exports=("mxnet",),
)
