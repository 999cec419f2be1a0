"""Stage 5, scores to figures, pictures and a report."""
