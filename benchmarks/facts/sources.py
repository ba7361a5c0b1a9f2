"""Source files that a fact describes: their fingerprint, and their number of lines of code.

Changes of comments, docstrings and layout do not make a fact old: for Python files they count neither for the
fingerprint nor for the lines. In YAML files comments and layout do not count. In other files every byte
counts. The fingerprint is the same on Python 3.11, 3.12 and 3.13.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

import yaml

from core.base.errors import UserError

_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}
_SEPARATOR = b"\0"


def matching(patterns: Sequence[str], root: Path) -> list[Path]:
    """Return the files below `root` that match patterns like `core/**/*.py`, each once, in order.

    Raises:
        UserError: A pattern matches no file, so it would describe nothing.
    """
    found: set[Path] = set()
    for pattern in patterns:
        files = {path for path in root.glob(pattern) if path.is_file()}
        if not files:
            raise UserError(f"{pattern}: there is no such file in {root}", "A fact must describe something.")
        found |= files
    return sorted(found)


def fingerprint(patterns: Sequence[str], root: Path) -> str:
    """Return sixteen hexadecimal digits that depend on the contents and the names of these files."""
    digest = hashlib.sha256()
    for path in matching(patterns, root):
        digest.update(path.relative_to(root).as_posix().encode() + _SEPARATOR)
        digest.update(_contents(path) + _SEPARATOR)
    return digest.hexdigest()[:16]


def code_lines(source: str) -> int:
    """Count the lines of a Python source without blank lines, comments and docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if _is_words(node):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def _contents(path: Path) -> bytes:
    if path.suffix == ".py":
        return "".join(_told(ast.parse(path.read_text(encoding="utf-8")))).encode("utf-8", "surrogatepass")
    if path.suffix == ".yaml":
        return json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), default=str).encode()
    return path.read_bytes()


def _told(node: object) -> Iterator[str]:
    """Yield a syntax tree as text, without empty fields, since newer versions of Python have more of them."""
    if isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name, value in ast.iter_fields(node):
            if value is not None and value != []:
                yield f"{name}="
                yield from _told(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            if not _is_words(item):
                yield from _told(item)
        yield "]"
    else:
        yield f"{node!r},"


def _is_words(node: object) -> TypeGuard[ast.Expr]:
    """Return whether a node is a string that stands alone: a docstring, also of an attribute."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
