"""What both recipes train with."""
