"""Stage 5, scores to figures, pictures and a report."""

from vadclip.evaluate.metrics import evaluate

__all__ = ["evaluate"]
