"""PyTorch, eager: each operation as it is called."""

from core.contract import Backend

backend = Backend(
    name="torch",
    title="PyTorch",
    module="torch",
    distributions=("torch",),
    install="pip install -e '.[torch]' -c constraints.txt",
    implementation="backends.torch.model",
    exports=("torchscript", "pt2"),
)
