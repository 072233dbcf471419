"""Recurrent networks without gates."""
