"""Backend for TensorFlow, compiled with `tf.function`."""

from core.backend.contract import Backend
from core.base.programs import installation

backend = Backend(
    name="tf",
    title="TensorFlow",
    module="tensorflow",
    distributions=("tensorflow-cpu", "tensorflow"),
    install=installation("tf"),
    implementation="backends.tf.model",
    exports=("savedmodel",),
)
