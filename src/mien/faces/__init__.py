"""Faces (filled below)."""
