"""Backend for PyTorch, run eagerly."""

from core.backend.contract import Backend, WeightFiles
from core.base.programs import installation

backend = Backend(
    name="torch",
    title="PyTorch",
    module="torch",
    distributions=("torch",),
    install=installation("torch"),
    implementation="backends.torch.model",
    exports=("pt2", "torchscript"),
    weight_files=WeightFiles(
        title="PyTorch", module="backends.torch.weights", suffixes=(".pth", ".pt", ".bin"), writes=True
    ),
)
