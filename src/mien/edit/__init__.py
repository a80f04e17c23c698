"""Edit (filled below)."""
