"""Files of weights of MXNet's Gluon: `.params` of `save_parameters`, or of its model zoo."""

from __future__ import annotations

import re
from pathlib import Path

from backends.mxnet.framework import mx
from core.backend.weight_files import FileLayers, from_channels_first
from core.base.errors import UserError
from core.files.system_errors import explain_os_errors

_MAGIC = (0x112).to_bytes(8, "little")
_KINDS = re.compile("^(arg|aux):")  # in files that the older `Module` wrote


def read_weights(path: Path) -> FileLayers:
    """Return the layers; names with underscores, as older files have them, keep these."""
    with explain_os_errors(path, "read"), path.open("rb") as file:
        begins = file.read(8)
    if begins != _MAGIC:
        raise UserError(f"{path} is no file of MXNet: it begins with {begins.hex(' ')}")
    try:
        found = mx.nd.load(str(path))
        if not isinstance(found, dict):
            raise UserError(f"{path}: its arrays have no names", "Save it by net.save_parameters(FILE).")
        arrays = {_KINDS.sub("", name): array.asnumpy() for name, array in found.items()}
    except (mx.base.MXNetError, ValueError, UnicodeDecodeError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"{path} is damaged: {reason[:300]}") from error
    return from_channels_first(arrays, "." if any("." in name for name in arrays) else "_")
