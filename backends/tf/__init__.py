"""Backend for TensorFlow, compiled with `tf.function`."""

from core.backend.contract import Backend, WeightFiles
from core.base.programs import installation

backend = Backend(
    name="tf",
    title="TensorFlow",
    module="tensorflow",
    distributions=("tensorflow-cpu", "tensorflow"),
    install=installation("tf"),
    implementation="backends.tf.model",
    exports=("savedmodel",),
    weight_files=WeightFiles(
        title="Keras",
        module="backends.tf.weights",
        suffixes=(".h5", ".hdf5", ".keras"),
        needs_framework=False,
    ),
)
