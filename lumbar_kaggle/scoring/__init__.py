"""How good predictions are: the metric, its prior, agreement, and the blend that is fitted to it."""
