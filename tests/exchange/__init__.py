"""Reports for other systems."""
