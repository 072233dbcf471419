"""Recurrences without a product with the state: a step is elementwise."""
