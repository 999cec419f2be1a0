"""A trained model for use from Python: one video in, its scores and events out.

Legend of shape suffixes: N snippets, K classes, 0 is normal; R rows, D width of a feature.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from vadclip.detect.find import FoundEvent, Rules, events_of
from vadclip.detect.judge import Judge
from vadclip.detect.model import load
from vadclip.detect.sources import unlabelled
from vadclip.errors import VideoError
from vadclip.events import MAX_FLAGGED_NORMAL, threshold_from_peaks
from vadclip.extract.coverage import Gap
from vadclip.extract.encode import OpenVideo, extract
from vadclip.extract.units import plan_units
from vadclip.ingest.probe_cache import Probe
from vadclip.ingest.video_row import video_row
from vadclip.manifest import SNIPPET_FRAMES, Video
from vadclip.pool.work import Beat
from vadclip.remote import download, is_remote, shown
from vadclip.video.frame_reader import probe
from vadclip.video.times import snippet_edges

BATCH_IMAGES, UNIT_IMAGES = 64, 512


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found in one video."""

    path: str
    num_frames: int
    fps: float
    """0 where the file does not say."""
    seconds: npt.NDArray[np.float64]
    """Presentation time at which each snippet begins, and the last one ends: shape [N + 1]."""
    scores: npt.NDArray[np.float32]
    """Anomaly score of each snippet of 16 frames: shape [N], from 0 to 1."""
    probabilities: npt.NDArray[np.float32] | None
    """Of each class: shape [N, K]; None of a model without an alignment branch."""
    labels: tuple[str, ...]
    """The K classes, normal first."""
    threshold: float
    events: tuple[FoundEvent, ...]
    """In order of time."""


class Detector:
    """A model and what it needs; `load` makes one.

        detector = Detector.load("model")
        for event in detector.detect("video.mp4").events:
            print(event.start_seconds, event.end_seconds, event.label, event.peak)

    It decodes in this process: a file that crashes the decoder takes the process along. `vadclip detect`
    probes in a process of its own, resumes, and works on many videos at once.
    """

    def __init__(self, judge: Judge, threshold: float | None, prompt_threshold: float | None) -> None:
        self._judge, self._threshold, self._prompt_threshold = judge, threshold, prompt_threshold

    @classmethod
    def load(
        cls,
        model: str | Path = "model",
        *,
        clip: str | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        threshold: float | None = None,
        max_flagged_normal: float = MAX_FLAGGED_NORMAL,
        prompts: Sequence[str] = (),
        only_prompts: bool = False,
        prompt_threshold: float | None = None,
    ) -> Self:
        """Load a model folder and the CLIP it names; arguments are the options of `vadclip detect`.

        Raises InputError if either cannot be used. A model without a threshold of its own, and none given,
        asks for one in `detect`.
        """
        loaded = load(Path(model), clip=clip, device=device)
        judge = Judge.of(loaded, prompts, only=only_prompts)
        if threshold is None and loaded.info.normal_peaks:
            threshold = threshold_from_peaks(
                loaded.info.normal_peaks, selection=loaded.info.selection, max_flagged=max_flagged_normal
            ).value
        return cls(judge, threshold, prompt_threshold)

    def detect(
        self, path: str | Path, *, threshold: float | None = None, beat: Beat = lambda amount: None
    ) -> Detection:
        """Look at one video, given by path or address; `beat` is called as work gets done.

        Memory does not grow with the video but for its rows, 16 bytes a frame at D 512 and 16 times less for
        the rest. Raises VideoError if the video cannot be used, InputError without any threshold.
        """
        threshold = self._threshold if threshold is None else threshold
        if threshold is None:  # it says why the model has none
            threshold = threshold_from_peaks((), selection=self._judge.loaded.info.selection).value
        rules = Rules(threshold, self._prompt_threshold, self._judge.prompt_labels)
        with _local(str(path), beat) as local:
            classes = self._judge.loaded.info.classes
            video = video_row(unlabelled("video", local), Probe(**asdict(probe(local))), classes)
            rows_RD = self._rows(video, beat)
            edges, _ = snippet_edges(local, video, len(rows_RD))
        scores = self._judge.score(_OneVideo(rows_RD), [video])
        return Detection(
            path=shown(str(path)),
            num_frames=video.num_frames,
            fps=video.fps,
            seconds=edges,
            scores=scores.main_score_N,
            probabilities=scores.class_probabilities_NK,
            labels=self._judge.labels,
            threshold=rules.threshold,
            events=events_of(
                scores.main_score_N, scores.class_probabilities_NK, self._judge.labels, edges, rules
            ),
        )

    def _rows(self, video: Video, beat: Beat) -> npt.NDArray[np.float16]:
        """Encode a video's frames as the extract stage does."""
        recipe = self._judge.loaded.recipe
        frames_per_snippet = recipe.provenance.frames_per_snippet
        gap = Gap((recipe.crop,), 0, video.num_snippets)
        units = plan_units(
            [(video, video.uri, gap)], frames_per_snippet=frames_per_snippet, unit_images=UNIT_IMAGES
        )
        parts: list[npt.NDArray[np.float16]] = []
        videos = OpenVideo("decord")
        try:
            for unit in units:
                out = extract(unit, self._judge.loaded.clip, videos, batch_images=BATCH_IMAGES, beat=beat)
                if out.failures:
                    raise VideoError(out.failures[0].error)
                parts += out.arrays
        finally:
            videos.close()
        rows_RD = np.concatenate(parts) if parts else np.empty((0, recipe.provenance.embed_dim), np.float16)
        if len(rows_RD) == 0:
            raise VideoError(f"too short: a snippet is {SNIPPET_FRAMES} frames")
        return rows_RD


@dataclass(frozen=True, eq=False)
class _OneVideo:
    """The features of the one video at hand."""

    rows_RD: npt.NDArray[np.float16]

    def rows(self, video_id: str) -> int:
        return len(self.rows_RD)

    def array(self, video_id: str, crop: int) -> npt.NDArray[np.float16]:
        return self.rows_RD


@contextmanager
def _local(path: str, beat: Beat) -> Iterator[str]:
    """Yield a local path; a remote video is copied for as long."""
    if not is_remote(path):
        yield str(Path(path).absolute())
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "video"
        try:
            download(path, copy, beat=beat)
        except OSError as error:
            raise VideoError(f"it cannot be fetched ({error.strerror or type(error).__name__})") from None
        yield str(copy)
