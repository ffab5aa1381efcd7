"""Text from files, made harmless for a terminal."""

import re

LONGEST = 2000
# control characters, marks that turn the direction of text, and half characters
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, longest: int = LONGEST) -> str:
    """Return text as one line that cannot command a terminal.

    Parameters
    ----------
    text : str
        With names from a file in it.
    longest : int, default=2000
        Characters kept.

    Returns
    -------
    str
        The text; what cannot be printed becomes U+FFFD.
    """
    if len(text) > longest:
        text = text[: longest - 4] + " ..."
    return _UNPRINTABLE.sub("\ufffd", text)
