"""Getting the package to Kaggle and finding one's way there."""
