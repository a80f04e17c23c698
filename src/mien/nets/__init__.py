"""Nets (filled below)."""
