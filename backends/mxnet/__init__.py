"""Apache MXNet: symbols run through `CachedOp`."""

from core.contract import Backend

backend = Backend(
    name="mxnet",
    title="Apache MXNet",
    module="mxnet",
    distributions=("mxnet", "mxnet-cu117", "mxnet-cu112"),
    install="pip install -e '.[mxnet]' -c constraints.txt",
    implementation="backends.mxnet.model",
    exports=("mxnet",),
)
