"""Stage 4: model/ + features/ -> scores.parquet, a row per snippet of the val and test videos."""

import time
from pathlib import Path

from flows import run_stage
from vadclip.clip.frozen import load_clip
from vadclip.config import load_params
from vadclip.features.reader import FeatureReader
from vadclip.manifest import read_manifest
from vadclip.model.folder import load_model
from vadclip.model.inference import plain_texts
from vadclip.score.scores import ScoreInfo, scores_table, write_scores
from vadclip.score.scoring import check_features_fit, score_videos

MANIFEST, FEATURES, MODEL = Path("manifest.parquet"), Path("features"), Path("model")
SCORES = Path("scores.parquet")


def main() -> None:
    """Run the stage in the project's folder."""
    params = load_params()
    manifest = read_manifest(MANIFEST)
    features = FeatureReader(FEATURES, manifest)
    clip = load_clip(params.clip, device=params.execution.device)
    model, info = load_model(MODEL, clip, params.execution.device)
    check_features_fit(info, features.provenance)
    videos = (*manifest.split("val"), *manifest.split("test"))
    excluded = {v.video_id: features.excluded[v.video_id] for v in videos if v.video_id in features.excluded}
    started = time.monotonic()
    scores = score_videos(
        model,
        features,
        [video for video in videos if video.video_id not in excluded],
        plain_text_KD=plain_texts(clip.text, info.classes),
        crop=params.extract.test_crop,
        precision=params.score.precision,
        info=ScoreInfo(
            labels=info.classes.labels,
            test_selected=info.test_selected,
            excluded=excluded,
            lost_frames={v.video_id: lost for v in videos if (lost := features.lost_frames.get(v.video_id))},
            normal_peaks=info.normal_peaks,
            selection=info.selection,
        ),
    )
    seconds = time.monotonic() - started
    write_scores(scores_table(scores), SCORES)
    snippets = int(scores.rows_V.sum())
    print(f"score: {snippets:,} snippets of {len(scores.video_ids):,} videos in {seconds:.1f} s")


if __name__ == "__main__":
    run_stage(main)
