"""An experiment's configuration, and the checkpoint from which it can be resumed.

The training itself is in `core.training` and `core.tasks`.
"""
