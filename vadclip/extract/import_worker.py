"""The worker that takes the authors' released features (.npy) into the feature store, as they are.

float16 rows keep their bits. float32 rows are rounded to float16, which is what the store holds, what the
authors' own files hold, and finer than what a forward pass in another precision changes.

What is wrong with one video is its failure. L2-normalised rows stop the run: that is a property of a whole
release, VadCLIP wants raw features, and nothing after it would be right.

Legend of shape suffixes: R rows (snippets), D width of a feature.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadclip.config import ClipParams
from vadclip.errors import InputError, VideoError
from vadclip.extract.encode import Extracted
from vadclip.extract.failures import Failure
from vadclip.extract.units import Slice, Unit
from vadclip.features.npy_files import crop_path, plain_shape
from vadclip.features.provenance import Provenance
from vadclip.pool.work import Beat
from vadclip.remote import is_remote, open_filesystem, plain_faults

# vadclip.md section 1: norms of raw ViT-B/16 rows are 8.8 to 11.
NORMALISED, PLAUSIBLE = (0.98, 1.02), (4.0, 25.0)
# In every row of OpenAI's ViT-B/16, once normalised, this dimension is +0.5 to +0.65.
VIT_B16_DIMENSION, VIT_B16_RANGE = 442, (0.3, 0.8)


def is_vit_b16(clip: ClipParams) -> bool:
    """Whether the params name OpenAI's ViT-B/16, by its tag or by a file (as checkpoints contain it)."""
    is_file = Path(clip.weights_name).suffix != ""
    return clip.model == "ViT-B-16-quickgelu" and (clip.pretrained == "openai" or is_file)


class ImportWorker:
    """Reads units of .npy rows and returns them.

    `of_vit_b16`: the params name OpenAI's ViT-B/16, so features of another CLIP are refused.
    """

    def __init__(self, provenance: Provenance, of_vit_b16: bool) -> None:
        self._provenance, self._of_vit_b16 = provenance, of_vit_b16

    def run(self, unit: Unit, beat: Beat) -> Extracted:
        """Read one unit; raises InputError for L2-normalised rows."""
        out = Extracted()
        for part in unit.slices:
            try:
                rows = []
                for crop in part.crops:
                    with out.clock("read"):
                        rows.append(self._rows(part, crop))
                    beat((part.stop - part.start) * unit.frames_per_snippet)
            except VideoError as error:
                out.failures.append(Failure(part.video_id, part.content_hash, str(error), lasting=True))
            except OSError as error:
                reason = f"it cannot be read: {error.strerror or type(error).__name__}"
                out.failures.append(Failure(part.video_id, part.content_hash, reason, lasting=False))
            else:
                count = part.stop - part.start
                for crop, rows_RD in zip(part.crops, rows, strict=True):
                    out.blocks.append(part.block(crop, rows=count, frames=part.until_frame))
                    out.arrays.append(rows_RD)
                out.counts["rows_imported"] += count * len(part.crops)
        return out

    def _rows(self, part: Slice, crop: int) -> NDArray[np.float16]:
        """Return float16 rows_RD of a slice's crop."""
        path = crop_path(part.location, crop)
        loaded = _load(path)
        features_RD = loaded.reshape(plain_shape(loaded.shape))
        if features_RD.shape[1:] != (self._provenance.embed_dim,):
            raise VideoError(
                f"crop {crop} has rows of {features_RD.shape[-1]} numbers, and the CLIP that params.yaml "
                f"names has a joint dimension of {self._provenance.embed_dim}"
            )
        if len(features_RD) * 16 != part.num_frames:
            raise VideoError(
                f"crop {crop} has {len(features_RD)} rows, the manifest says {part.num_frames // 16}"
            )
        # An overflow of float16 shows as inf, which is refused below.
        with np.errstate(over="ignore"):
            rows_RD = np.array(features_RD[part.start : part.stop]).astype(np.float16)
        self._check(rows_RD.astype(np.float32), crop, path)
        return rows_RD

    def _check(self, rows_RD: NDArray[np.float32], crop: int, path: str) -> None:
        if not np.isfinite(rows_RD).all():
            raise VideoError(f"crop {crop} holds values that are not finite in float16")
        norms_R = np.linalg.norm(rows_RD, axis=1)
        norm = float(np.median(norms_R))
        if NORMALISED[0] <= norm <= NORMALISED[1]:
            raise InputError(
                f"{path}: its rows have norm {norm:.2f}, so they are L2-normalised; VadCLIP takes CLIP's raw "
                "features, with norms of 8.8 to 11 (the authors' release); get those, or extract from videos"
            )
        if not self._of_vit_b16:
            return
        if not PLAUSIBLE[0] <= norm <= PLAUSIBLE[1]:
            raise VideoError(f"crop {crop} has rows of norm {norm:.2f}, and ViT-B/16's have 8.8 to 11")
        share = float(np.median(rows_RD[:, VIT_B16_DIMENSION] / norms_R))
        if not VIT_B16_RANGE[0] <= share <= VIT_B16_RANGE[1]:
            raise VideoError(
                f"crop {crop} is of another CLIP than ViT-B/16: dimension {VIT_B16_DIMENSION} is {share:+.2f}"
                " of a row's norm, and there +0.5 to +0.65 in every row"
            )


def _load(path: str) -> NDArray[np.floating]:
    """Open an .npy array; a local one is mapped, so a slice reads its rows only. Nothing is unpickled."""
    try:
        if is_remote(path):
            filesystem, inner = open_filesystem(path)
            with plain_faults(path), filesystem.open(inner, "rb") as opened:
                loaded: NDArray[np.floating] = np.lib.format.read_array(opened, allow_pickle=False)
                return loaded
        return np.load(Path(path), mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise VideoError(f"{path.rsplit('/', 1)[-1]} is missing") from None
    except ValueError as error:
        raise VideoError(
            f"{path.rsplit('/', 1)[-1]} is no plain array: {str(error).splitlines()[0]}"
        ) from None
