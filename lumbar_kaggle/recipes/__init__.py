"""Recipes: ways from a cache of series to an exported bundle of models, and from that to probabilities."""
