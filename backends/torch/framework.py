"""The one place that imports PyTorch, set up for the rules of `core`."""

from __future__ import annotations

import os

import torch

from core.base.system import keep_freed_memory

# The same bits every time; an operator that cannot raises, as products on a GPU do without the variable.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.use_deterministic_algorithms(True)
# Or else every new array is filled with NaN first, so that reading it would be deterministic too.
torch.utils.deterministic.fill_uninitialized_memory = False
# TF32, on by default in cuDNN, keeps 10 bits of a float32 product: runs on the GPU would leave the other
# backends' trajectory. By these names, since PyTorch before 2.9 takes no notice of `fp32_precision`, and with
# that as "ieee" `torch.export` and all that reads these names raises (2.13).
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False

# Otherwise the default network trains at 9 instead of 15 images/s on two cores.
keep_freed_memory()

__all__ = ["torch"]
