"""From a cell to its normal form, and from there to the equations of its backward pass."""
