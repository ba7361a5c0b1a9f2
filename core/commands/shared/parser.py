"""The parser of a subcommand's options: `argparse`, which refuses a command line that contradicts itself.

Provides `Parser`, in which an option that takes one value may be given once: two different values are wrong
usage, where plain `argparse` takes the last one without a word. `only_with` names the option without which
another one has no effect; giving the second alone is wrong usage too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from core.base.standard_streams import visible


class Parser(argparse.ArgumentParser):
    """See the module. Text of a wrong command line is shown so that it cannot steer the terminal."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.given: dict[str, str] = {}  # the values of this command line as they are shown, by attribute
        self.needs: dict[str, str] = {}  # an option, and the one without which it has no effect
        for kind in (None, "store"):
            self.register("action", kind, _StoreOne)

    def error(self, message: str) -> NoReturn:
        """End with the usage, the message (of a missing -f, what it may name) and exit status 2."""
        if "-f/--framework" in message:
            from core.backend.registry import installed_backends

            names = [backend.name for backend in installed_backends() if backend.trains]
            message = f"{message}; installed: {', '.join(names) or 'none'}"
        super().error(visible(message))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the words, as `argparse` does; see the class for what else is refused."""
        self.given.clear()
        found = super().parse_args(args, namespace)
        for word, other in self.needs.items():
            action, needed = self._named(word), self._named(other)
            if self._was_given(action, found) and not self._was_given(needed, found):
                name = "/".join(needed.option_strings) or needed.metavar or needed.dest
                self.error(str(argparse.ArgumentError(action, f"has no effect without {name}")))
        return found

    def _named(self, word: str) -> argparse.Action:
        """The option or the positional argument of that name."""
        return next(one for one in self._actions if word in (*one.option_strings, one.dest))

    def _was_given(self, action: argparse.Action, found: argparse.Namespace) -> bool:
        value = getattr(found, action.dest)
        return action.dest in self.given or value != self.get_default(action.dest)


class _StoreOne(argparse.Action):
    """Keeps one value."""

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
    """`--word` and `--no-word`, of which one may be given; None where neither was."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep what was given."""
        _note(parser, self, str(option_string))
        super().__call__(parser, namespace, values, option_string)


def _note(parser: argparse.ArgumentParser, action: argparse.Action, shown: str) -> None:
    """Remember what was given; a second value that differs contradicts the first."""
    if not isinstance(parser, Parser) or not action.option_strings:
        return
    first = parser.given.setdefault(action.dest, shown)
    if first != shown:
        raise argparse.ArgumentError(action, f"takes one value; received {first} and {shown}")


def only_with(parser: argparse.ArgumentParser, option: str, other: str) -> None:
    """Declare that `option` has no effect unless `other` is given: an option, or a positional's attribute."""
    if isinstance(parser, Parser):
        parser.needs[option] = other
