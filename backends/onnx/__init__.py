"""Backend that writes the plan as an ONNX file, with which ONNX Runtime predicts. It does not train."""

from core.backend.contract import Backend
from core.base.programs import installation

backend = Backend(
    name="onnx",
    title="ONNX Runtime",
    module="onnxruntime",
    distributions=("onnxruntime", "onnxruntime-gpu"),
    install=installation("onnx"),
    implementation="backends.onnx.model",
    exports=("onnx",),
    trains=False,
    precisions=("float32", "mixed_bfloat16", "mixed_float16"),
)
