"""JAX, compiled by XLA with `jax.jit`."""

from core.contract import Backend

backend = Backend(
    name="jax",
    title="JAX",
    module="jax",
    distributions=("jax",),
    install="pip install -e '.[jax]' -c constraints.txt",
    implementation="backends.jax.model",
    exports=("stablehlo",),
)
