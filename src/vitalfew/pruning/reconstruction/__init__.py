"""Choose and re-fit the weights of one layer so that its outputs change least."""

__all__: list[str] = []
