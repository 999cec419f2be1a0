"""Stage 2, videos to features: plan, supervised workers, publication."""
