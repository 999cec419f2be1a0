"""What the sample's CLIP can tell without any training of VadCLIP: zero-shot figures on held-out videos.

Legend of shape suffixes: N frames, h and w resized, D joint width, K classes.
"""

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from benchmarks.sample_clip.clip_data import Frames
from vadclip.clip.frozen import Clip
from vadclip.sample.world import CLASSES

TEMPERATURE = 0.07


def zero_shot_probabilities(clip: Clip, pixels_Nhw3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return p_NK of resized frames: centre crop, plain class prompts, softmax of cosines / 0.07."""
    features_ND = torch.from_numpy(clip.encode_crops(pixels_Nhw3, (0,), 64)[:, 0])
    with torch.inference_mode():
        text_KD = clip.text.encode(CLASSES.prompts)
    cosines_NK = F.normalize(features_ND, dim=1) @ F.normalize(text_KD, dim=1).T
    p_NK: npt.NDArray[np.float32] = (cosines_NK / TEMPERATURE).softmax(dim=1).numpy()
    return p_NK


def zero_shot(clip: Clip, frames: Frames) -> dict[str, float]:
    """Return the AUC of 1 - p(normal), accuracy per class, the share of normal doings that is called so."""
    p_NK = zero_shot_probabilities(clip, frames.pixels_Nhw3)
    kinds = np.array([facts.kind for facts in frames.facts])
    known = {label: i for i, label in enumerate(CLASSES.labels)}
    truth = np.array([known.get(kind, 0) for kind in kinds])
    score = 1 - p_NK[:, 0]
    figures = {
        "frames": len(kinds),
        "anomalous_share": float((truth > 0).mean()),
        "auc": float(roc_auc_score(truth > 0, score)),
        "accuracy_balanced": float(
            np.mean([(p_NK[truth == k].argmax(1) == k).mean() for k in range(len(CLASSES))])
        ),
    }
    for label, k in known.items():
        figures[f"accuracy_{label}"] = float((p_NK[truth == k].argmax(1) == k).mean())
        if k:
            against = (truth == 0) | (truth == k)
            figures[f"auc_{label}"] = float(roc_auc_score(truth[against] == k, score[against]))
    for kind in sorted(set(kinds) - set(known)):
        figures[f"called_normal_{kind}"] = float((p_NK[kinds == kind].argmax(1) == 0).mean())
    return {name: round(value, 4) for name, value in figures.items()}
