"""Backend for JAX, compiled by XLA with `jax.jit`."""

from core.backend.contract import Backend
from core.base.programs import installation

backend = Backend(
    name="jax",
    title="JAX",
    module="jax",
    distributions=("jax",),
    install=installation("jax"),
    implementation="backends.jax.model",
    exports=("stablehlo",),
)
