"""Evaluate (filled below)."""
