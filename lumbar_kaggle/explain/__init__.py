"""Where the models of a bundle looked in one study. It explains a model, not a patient."""
