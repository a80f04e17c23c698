"""Ground floor: errors, atomic files, weights on disk. Knows nothing of faces."""
