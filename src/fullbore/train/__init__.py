"""Training: the bundled demo model, on text that this package generates."""
