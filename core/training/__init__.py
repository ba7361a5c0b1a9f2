"""The training loop and what surrounds it: schedules, the best epoch, averages of weights, TensorBoard logs.

The arithmetic of an update is in `core.backend.training_rules`; batches come from `data.batches`.
"""
