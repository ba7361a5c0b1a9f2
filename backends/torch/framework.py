"""The import of PyTorch, with the settings that `core`'s rules need. Nothing else imports PyTorch."""

from __future__ import annotations

import os

import torch

from core.base.system import keep_freed_memory

# Results are the same bits every time. An operator that cannot do this raises an error, as products on a GPU
# do without the variable.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.use_deterministic_algorithms(True)
# Otherwise every new array is filled with NaN first, so that a read of it would be deterministic too.
torch.utils.deterministic.fill_uninitialized_memory = False
# TF32, on by default in cuDNN, keeps 10 bits of a float32 product: runs on a GPU would deviate from the other
# backends' trajectory. `fp32_precision` is not set instead: PyTorch before 2.9 ignores it, and with "ieee"
# `torch.export` and everything else that reads the names below raises an error (2.13).
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False
# A convolution in float16 that becomes a product of matrices adds in float32, as the others do.
torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

keep_freed_memory()  # otherwise training is much slower: the system maps the same memory again and again

__all__ = ["torch"]
