"""Trained models on disk: finding, loading and exporting them, and running them in a process.

The step from probabilities to masks and scores is in `core.scoring` and `core.tasks.predictions`.
"""
