"""Errors that a user can mend. Each message is one line: where, what, what is allowed, what to try."""

import difflib
from collections.abc import Iterable


class BakeoffError(Exception):
    """Something the user can mend; the command line prints it without a traceback and exits with 2."""


class ConfigError(BakeoffError):
    """The YAML, an override or a command-line option is wrong."""


class DataError(BakeoffError):
    """A data file is missing, or a row in it cannot be used."""


class SetupError(BakeoffError):
    """The model, the run folder or the environment is not as needed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" where a known word is close, else the list of known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Allowed: {', '.join(names)}."
