"""The interface to a backend, the registry that finds backends, and what all backends share.

The implementations for each framework are in `backends/`. Checks of a backend are in `core.conformance`.
"""
