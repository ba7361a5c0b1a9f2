"""TensorFlow, compiled with `tf.function`."""

from core.contract import Backend

backend = Backend(
    name="tf",
    title="TensorFlow",
    module="tensorflow",
    distributions=("tensorflow-cpu", "tensorflow"),
    install="pip install -e '.[tf]' -c constraints.txt",
    implementation="backends.tf.model",
    exports=("savedmodel",),
)
