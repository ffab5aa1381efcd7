"""Errors of the user's, with the hint that ends their message."""

import shlex
from collections.abc import Iterable
from difflib import get_close_matches

from vitalfew.exceptions import DataError

HINT = "hint: "


def data_error(message: str, hint: str) -> DataError:
    """Return an error with its hint as a note.

    Parameters
    ----------
    message : str
        What is wrong, and where.
    hint : str
        What to do about it.

    Returns
    -------
    DataError
        To raise.
    """
    error = DataError(message)
    error.add_note(HINT + hint)
    return error


def dropping(names: Iterable[str]) -> str:
    """Return the options that leave columns out, quoted for the shell they go to.

    Parameters
    ----------
    names : iterable of str
        Of the columns.

    Returns
    -------
    str
        As in ```--drop age```.
    """
    return " ".join(f"`--drop {shlex.quote(name)}`" for name in names)


def no_column(name: str, names: Iterable[str], option: str) -> DataError:
    """Return the error for a column that is not there, with the nearest names.

    Parameters
    ----------
    name : str
        What was asked for.
    names : iterable of str
        What there is.
    option : str
        Where it was asked for, as in ``--target``.

    Returns
    -------
    DataError
        To raise.
    """
    names = list(names)
    folded: dict[str, str] = {}
    for known in names:
        folded.setdefault(known.strip().casefold(), known)
    near = get_close_matches(name.strip().casefold(), folded, n=3, cutoff=0.6)
    if near:
        hint = f"did you mean {' or '.join(f'`{folded[n]}`' for n in near)}?"
    else:
        shown = ", ".join(f"`{n}`" for n in names[:8])
        hint = f"the columns are {shown}{' ...' if len(names) > 8 else ''}"
    return data_error(f"{option} {name}: there is no such column", hint)
