"""Numbers as people read them: a few digits, a true minus, powers of ten in words."""

import math
from collections.abc import Sequence

NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_TIED = "\u00a0"  # a space at which no line breaks
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def number(value: float | None, digits: int = 3) -> str:
    r"""Return a number with so many significant digits.

    >>> print(number(-0.012345), number(54321.6), number(1.5e-9), number(None))
    −0.0123 54,322 1.50\xa0×\xa010⁻⁹ –
    """
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if not _is_plain(value):
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        power = str(int(exponent)).translate(_RAISED)
        return f"{mantissa}{_TIED}{_TIMES}{_TIED}10{power}".replace("-", _MINUS)
    return fixed(value, max(0, digits - 1 - _exponent(value)))


def fixed(value: float, decimals: int) -> str:
    """Return a number with so many decimals, and no minus before a zero."""
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace("-", _MINUS)


def aligned(values: Sequence[float | None], digits: int = 3) -> list[str]:
    """Return a table's column of numbers, with the decimals that suit its largest.

    Those too small for them, and every number of a column that holds a huge or a tiny
    one, get digits of their own.
    """
    known = [v for v in values if v]
    if not known or not all(_is_plain(v) for v in known):
        return [number(v, digits) for v in values]
    decimals = max(0, digits - 1 - max(_exponent(v) for v in known))
    return [
        fixed(v, decimals)
        if v is not None and abs(v) >= 2 * 10.0**-decimals
        else number(v, max(1, digits - 1))
        for v in values
    ]


def spreads(pairs: Sequence[tuple[float | None, float | None]]) -> list[str]:
    """Return means with their spreads, all to the digit that the spreads can bear."""
    deviations = [sd for _, sd in pairs if sd]
    means = [mean for mean, _ in pairs if mean]
    if not deviations or not all(map(_is_plain, deviations + means)):
        return [_spread(number(m, 4), number(sd, 2) if sd else "") for m, sd in pairs]
    decimals = min(6, max(0, 1 - _exponent(max(deviations))))
    return [
        NOTHING
        if m is None
        else _spread(fixed(m, decimals), fixed(sd, decimals) if sd is not None else "")
        for m, sd in pairs
    ]


def general(value: float | None) -> str:
    """Return a setting as it was typed, as far as a float tells."""
    if value is None or not _is_plain(value):
        return number(value)
    return f"{value:,.6g}".replace("-", _MINUS)


def percent(share: float | None) -> str:
    """Return a share of one as a whole percentage, 0% and 100% only when exact."""
    if share is None:
        return NOTHING
    if 0 < share < 0.005:
        return "<1%"
    if 0.995 < share < 1:
        return ">99%"
    return fixed(100 * share, 0) + "%"


def count(n: int | None) -> str:
    """Return a count with its thousands told apart."""
    return NOTHING if n is None else f"{n:,}".replace("-", _MINUS)


def counted(n: int, noun: str) -> str:
    """Return a count and its noun, as in ``"1 column"`` and ``"2 columns"``."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Return seconds as a person says them."""
    if seconds is None or seconds < 0:
        return NOTHING
    if seconds < 100:
        return f"{number(seconds, 2)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{count(hours)} h {minutes} min" if hours else f"{minutes} min"


def clipped(text: str, length: int) -> str:
    """Return a text cut in its middle to a length, both ends kept."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def _spread(mean: str, deviation: str) -> str:
    return f"{mean}{_TIED}±{_TIED}{deviation}" if deviation else mean


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _is_plain(value: float) -> bool:
    """Whether a number reads well without a power of ten."""
    return value == 0 or 1e-4 <= abs(value) < 1e7
