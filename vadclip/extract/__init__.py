"""Stage 2, videos to features: which rows are missing, who makes them, how they get into the store."""
