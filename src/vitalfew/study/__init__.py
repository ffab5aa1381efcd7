"""The study behind ``vitalfew select``: from a table of mixed columns to an answer.

`prepare` sorts a table (`Columns` of numbers and `Coded` categories) into features and
an outcome and refuses what leaks; `TableEncoder` turns features into numbers and
groups; `Study` chooses columns, repeats the choice on halves of the rows and inside
folds, and looks for near ties. A new kind of outcome needs its objective in
`_outcome`, its scores in `_scores` and its rival in `_rivals`.
"""

from vitalfew.study._columns import Coded, Columns
from vitalfew.study._prepare import Prepared, prepare
from vitalfew.study._study import Settings, Study
from vitalfew.study.table_encoder import TableEncoder

__all__ = [
    "Coded",
    "Columns",
    "Prepared",
    "Settings",
    "Study",
    "TableEncoder",
    "prepare",
]
