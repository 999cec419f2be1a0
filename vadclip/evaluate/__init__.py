"""Stage 5, scores to figures."""

from vadclip.evaluate.metrics import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
