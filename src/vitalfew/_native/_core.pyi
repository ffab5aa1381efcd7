# The compiled functions have the signatures of their twins; tests hold them to it.
from vitalfew._native._twins import best_group_exchanges as best_group_exchanges
from vitalfew._native._twins import best_single_exchanges as best_single_exchanges
from vitalfew._native._twins import block_grams as block_grams
from vitalfew._native._twins import column_sums as column_sums
from vitalfew._native._twins import descend as descend
from vitalfew._native._twins import gram as gram
from vitalfew._native._twins import products as products

def is_wide() -> bool: ...
