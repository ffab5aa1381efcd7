"""The compiled loops, or their NumPy twins where the extension is absent.

Every function of `core.cpp` has a twin of the same name and signature in `_twins`,
which is also its oracle in the tests. ``VITALFEW_NATIVE=0`` chooses the twins.
"""

import os
import warnings

from vitalfew._native import _twins

COMPILED = False
if os.environ.get("VITALFEW_NATIVE") == "0":
    from vitalfew._native._twins import best_group_exchanges, best_single_exchanges
else:
    try:
        from vitalfew._native._core import (
            best_group_exchanges,
            best_single_exchanges,
        )

        COMPILED = True
    except ImportError:
        from vitalfew._native._twins import best_group_exchanges, best_single_exchanges

        warnings.warn(
            "vitalfew was installed without its compiled part and will be slower; "
            "install a C++17 compiler and reinstall to get it",
            RuntimeWarning,
            stacklevel=2,
        )

__all__ = ["COMPILED", "_twins", "best_group_exchanges", "best_single_exchanges"]
