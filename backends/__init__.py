"""One folder for each backend: each compiles a plan with its framework, which no other module imports.

What backends have in common (the contract, the rules of training, checkpoints) is in `core.backend`.
"""
