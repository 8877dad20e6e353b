"""The competition's tables: read, checked, written."""
