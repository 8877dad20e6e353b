"""The first stage: where discs, foramina and recesses lie, learned from coordinates alone."""
