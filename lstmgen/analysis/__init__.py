"""What a cell does to gradients over time: measured, for given parameters and data."""
