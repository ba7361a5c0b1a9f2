"""Worker processes, and a pool that maps over them in order.

A framework's own process is in `core.backend.process`.
"""
