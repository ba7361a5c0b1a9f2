"""The backends under test.

The frameworks are chosen by the environment variable PNEUMOSEG_BACKENDS (default: all that the
toolkit ships). One that is named and cannot be used fails its tests; it never turns into a skip.
"""

from __future__ import annotations

import os

BACKENDS = [name for name in os.environ.get("PNEUMOSEG_BACKENDS", "tf,mxnet").split(",") if name]

PREDICTORS = [*BACKENDS, "onnx"]
"""Those, and what predicts without training."""
