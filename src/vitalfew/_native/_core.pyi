# The compiled functions have the signatures of their twins; tests hold them to it.
from vitalfew._native._twins import best_group_exchanges as best_group_exchanges
from vitalfew._native._twins import best_single_exchanges as best_single_exchanges
