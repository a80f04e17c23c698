"""Data (filled below)."""
