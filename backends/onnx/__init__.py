"""ONNX files written from the plan, and predicted from by ONNX Runtime; this backend does not train."""

from core.contract import Backend

backend = Backend(
    name="onnx",
    title="ONNX Runtime",
    module="onnxruntime",
    distributions=("onnxruntime", "onnxruntime-gpu"),
    install="pip install -e '.[onnx]' -c constraints.txt",
    implementation="backends.onnx.model",
    exports=("onnx",),
    trains=False,
    precisions=("float32", "mixed_bfloat16"),
)
