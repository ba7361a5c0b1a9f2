"""Drawings: radiographs with masks, and the one import of matplotlib.

The report's figures are in `core.report`.
"""
