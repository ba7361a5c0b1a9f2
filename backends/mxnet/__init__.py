"""Backend for Apache MXNet: symbols, run by an executor in training and by `CachedOp` in prediction."""

from core.backend.contract import Backend, WeightFiles
from core.base.programs import installation

backend = Backend(
    name="mxnet",
    title="Apache MXNet",
    module="mxnet",
    distributions=("mxnet", "mxnet-cu117", "mxnet-cu112"),
    # Without its dependencies: MXNet requires a NumPy below 2, but runs with NumPy 2 here.
    install=f"{installation('mxnet')} && pip install --no-deps mxnet==1.9.1",
    implementation="backends.mxnet.model",
    exports=("mxnet",),
    weight_files=WeightFiles(title="Gluon", module="backends.mxnet.weights", suffixes=(".params",)),
)
