"""A body that has seen spines: weights for machines without ImageNet's, drawn from the phantom."""
