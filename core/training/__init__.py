"""The training loop, validation, schedules, best epoch, weight averaging, observers, TensorBoard, memory.

The arithmetic of an update is in `core.backend.training_rules`; batches come from `data.batches`.
"""
