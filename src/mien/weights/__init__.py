"""Weights (filled below)."""
