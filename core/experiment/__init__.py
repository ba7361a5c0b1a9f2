"""An experiment: its configuration, and the checkpoint that it can be resumed from.

How it runs is in `core.training`.
"""
