"""The two-stage recipe: locate, crop, grade. So far the first stage: where the discs and foramina lie."""
