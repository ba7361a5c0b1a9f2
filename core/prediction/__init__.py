"""Trained models on disk: found, loaded, run in a process of their own, exported.

What is concluded from probabilities is in `core.scoring` and `core.tasks.predictions`.
"""
