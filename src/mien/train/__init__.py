"""Engine: recipes, loop, checkpoints, moving averages, logs. Knows nothing of any paper."""
