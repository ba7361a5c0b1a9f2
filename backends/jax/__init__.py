"""JAX, compiled by XLA with `jax.jit`."""

from core.contract import Backend
from core.programs import installation

backend = Backend(
    name="jax",
    title="JAX",
    module="jax",
    distributions=("jax",),
    install=installation("jax"),
    implementation="backends.jax.model",
    exports=("stablehlo",),
)
