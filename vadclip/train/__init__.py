"""Stage 3, features to a model."""
