"""Real slices: copies of two public data sets as folders in the competition's layout, which every verb reads."""
