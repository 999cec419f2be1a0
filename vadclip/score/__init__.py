"""Stage 4, a model and features to a score per snippet."""
