"""The NumPy target: a module that needs only NumPy."""
