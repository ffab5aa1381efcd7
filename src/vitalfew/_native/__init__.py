"""The compiled loops, or their NumPy twins where the extension is absent.

Every compiled function has a twin of the same name and signature in `_twins`, which
is also its oracle in the tests. ``VITALFEW_NATIVE=0`` chooses the twins.
"""

import os
import warnings

from vitalfew._native import _twins
from vitalfew._native._twins import (
    best_group_exchanges,
    best_single_exchanges,
    block_grams,
    column_sums,
    descend,
    descend_columns,
    exchange_parts,
    gram,
    products,
    sparse_gram,
    sparse_products,
)

__all__ = [
    "COMPILED",
    "WIDE",
    "_twins",
    "best_group_exchanges",
    "best_single_exchanges",
    "block_grams",
    "column_sums",
    "descend",
    "descend_columns",
    "exchange_parts",
    "gram",
    "products",
    "sparse_gram",
    "sparse_products",
]

COMPILED = False
WIDE = False  # whether products of few columns beat the matrix library's
if os.environ.get("VITALFEW_NATIVE") != "0":
    try:
        from vitalfew._native import _core
    except ImportError:
        warnings.warn(
            "vitalfew was installed without its compiled part and will be slower; "
            "install a C++17 compiler and reinstall to get it",
            RuntimeWarning,
            stacklevel=2,
        )
    else:
        COMPILED, WIDE = True, _core.is_wide()
        for _name in __all__[3:]:
            globals()[_name] = getattr(_core, _name)
