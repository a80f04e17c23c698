"""Train (filled below)."""
