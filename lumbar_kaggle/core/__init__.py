"""What every room uses: targets, errors, files, settings, budget."""
