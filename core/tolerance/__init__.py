"""How far two results are apart, and how far they may be: the float32 error budget.

The checks that use it are in `core.conformance` and `core.parity`.
"""
