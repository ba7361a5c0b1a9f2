"""The one place that imports PyTorch, set up for the rules of `core`."""

from __future__ import annotations

import os

# Without it cuBLAS has no deterministic products, and PyTorch then refuses them.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

# The same bits every time; an operator that cannot raises.
torch.use_deterministic_algorithms(True)
# Or else every new array is filled with NaN first, so that reading it would be deterministic too.
torch.utils.deterministic.fill_uninitialized_memory = False
# TF32, on by default in cuDNN, keeps 10 bits of a float32 product: runs on the GPU would leave the other
# backends' trajectory.
torch.backends.fp32_precision = "ieee"

__all__ = ["torch"]
