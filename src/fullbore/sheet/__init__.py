"""Pages of plots: one HTML file each, which opens without a network."""
