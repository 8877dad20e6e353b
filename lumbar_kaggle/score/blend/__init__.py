"""One prediction from several: combined, stacked over conditions and sides, calibrated; cross-fitted."""
