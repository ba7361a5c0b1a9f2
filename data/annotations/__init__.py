"""Annotation tables: run-length encoded masks, CSV files in all their forms, image ids.

Pixels are in `data.radiographs`.
"""
