"""The parser of a subcommand's options: `argparse` with checks for contradictory options.

In `Parser`, two different values for an option that takes one are wrong usage; plain `argparse` silently
takes the last. `only_with` declares that an option has no effect without another; giving it alone is wrong
usage too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from core.base.standard_streams import visible


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` with the checks of this module. Control characters in its messages are escaped."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.given: dict[str, str] = {}  # values of the current command line as text, by attribute
        self.needs: dict[str, str] = {}  # an option, and the option that it needs
        for kind in (None, "store"):
            self.register("action", kind, _StoreOne)

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with status 2. For a missing -f, list the backends."""
        if "-f/--framework" in message:
            from core.backend.registry import installed_backends

            names = [backend.name for backend in installed_backends() if backend.trains]
            message = f"{message}; installed: {', '.join(names) or 'none'}"
        super().error(visible(message))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the words as `argparse` does, with the checks of this module."""
        self.given.clear()
        found = super().parse_args(args, namespace)
        for word, other in self.needs.items():
            action, needed = self._named(word), self._named(other)
            if self._was_given(action, found) and not self._was_given(needed, found):
                name = "/".join(needed.option_strings) or needed.metavar or needed.dest
                self.error(str(argparse.ArgumentError(action, f"has no effect without {name}")))
        return found

    def _named(self, word: str) -> argparse.Action:
        """Return the option or the positional argument of that name."""
        return next(one for one in self._actions if word in (*one.option_strings, one.dest))

    def _was_given(self, action: argparse.Action, found: argparse.Namespace) -> bool:
        value = getattr(found, action.dest)
        return action.dest in self.given or value != self.get_default(action.dest)


class _StoreOne(argparse.Action):
    """Stores a value that may be given once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        del option_string
        _note(parser, self, repr(str(values)))
        setattr(namespace, self.dest, values)


class Switch(argparse.BooleanOptionalAction):
    """The pair `--word` and `--no-word`, of which one may be given; the value is None without both."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the value."""
        _note(parser, self, str(option_string))
        super().__call__(parser, namespace, values, option_string)


def _note(parser: argparse.ArgumentParser, action: argparse.Action, shown: str) -> None:
    """Record a value; raise if a different one was given before."""
    if not isinstance(parser, Parser) or not action.option_strings:
        return
    first = parser.given.setdefault(action.dest, shown)
    if first != shown:
        raise argparse.ArgumentError(action, f"takes one value; received {first} and {shown}")


def only_with(parser: argparse.ArgumentParser, option: str, other: str) -> None:
    """Declare that `option` has no effect without `other`: an option, or a positional's attribute."""
    if isinstance(parser, Parser):
        parser.needs[option] = other
