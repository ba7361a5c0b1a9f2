"""Worker processes, and a map over them that keeps the order of the items.

The process of a framework is in `core.backend.process`.
"""
