"""Data/readers (filled below)."""
