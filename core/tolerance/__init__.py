"""The distance of two results, and the error budget that says how large it may be.

The checks that use them are in `core.conformance` and `core.parity`.
"""
