"""Stage 5, scores to figures.

>>> from vadclip.evaluate import evaluate
>>> from vadclip.manifest import read_manifest
>>> from vadclip.score.table import read_scores
>>> evaluation = evaluate(read_scores("scores.parquet"), read_manifest("manifest.parquet"))  # doctest: +SKIP
"""

from vadclip.evaluate.metrics import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
