"""Run records: plain data about one run, written and read as JSON.

A command writes one `RunRecord`; a report is drawn from it and from nothing else.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

FORMAT = "vitalfew-run/1"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What one run was given and what it found.

    Attributes
    ----------
    kind : str
        Which command made it, as in ``"select"``.
    created : str
        Time of the end of the run, ISO 8601 with its offset.
    versions : dict
        Versions of vitalfew, Python and the libraries that did the work.
    settings : dict
        What was asked for.
    data : dict
        What was given: sizes, columns, what was done to them.
    results : dict
        What was found; its keys depend on `kind`.
    """

    kind: str
    created: str
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the record as JSON; infinities and NaN become null."""
        plain = {"format": FORMAT, **asdict(self)}
        text = json.dumps(_finite(plain), indent=1, ensure_ascii=False)
        # half characters, as in names of files, have no UTF-8, but JSON can escape them
        return text.encode("utf-8", "backslashreplace").decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record.

        Raises
        ------
        ValueError
            If the text is not a record of this format.
        """
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a run record: {error}") from error
        if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
            raise ValueError(f"not a run record: its format must be {FORMAT!r}")
        names = set(cls.__dataclass_fields__)
        unknown = set(plain) - names
        if unknown or not {"kind", "created"} <= set(plain):
            raise ValueError(f"not a run record: its keys must be {sorted(names)}")
        return cls(**plain)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (1e999, -1e999)):
        return None
    return value
