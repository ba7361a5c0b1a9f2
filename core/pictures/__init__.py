"""Pictures of radiographs with masks, and the only import of matplotlib.

The figures of the report are in `core.report`.
"""
