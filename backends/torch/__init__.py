"""Backend for PyTorch, run eagerly."""

from core.backend.contract import Backend
from core.base.programs import installation

backend = Backend(
    name="torch",
    title="PyTorch",
    module="torch",
    distributions=("torch",),
    install=installation("torch"),
    implementation="backends.torch.model",
    exports=("pt2", "torchscript"),
)
