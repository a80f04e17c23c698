"""Faces/detectors (filled below)."""
