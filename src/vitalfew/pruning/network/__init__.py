"""Methods that prune all layers at once."""

__all__: list[str] = []
