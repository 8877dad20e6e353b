"""The two-stage recipe: locate, crop and grade over all three series, blend."""
