"""Importing and exporting checkpoints outside the pipeline, for `vadclip import-checkpoint` and `export-`."""

from dataclasses import asdict
from pathlib import Path

from vadclip.clip.frozen import Clip, load_clip, load_clip_weights
from vadclip.config import Params
from vadclip.datasets.official_lists import own_classes
from vadclip.features.provenance import Provenance
from vadclip.labels import UCF_CRIME, XD_VIOLENCE, Classes
from vadclip.manifest import read_manifest
from vadclip.model.folder import ModelInfo, check_clip, named_clip, read_model_info
from vadclip.model.official import Checkpoint, export_state, import_checkpoint, write_checkpoint
from vadclip.model.vadclip import VadClipConfig


def import_to_folder(checkpoint: Checkpoint, params: Params, folder: Path, manifest: Path) -> tuple[str, ...]:
    """Write the model folder of a checkpoint, without any features; return what the user should know.

    Classes are the dataset's own with ucf_crime and xd_violence, else those of the file `manifest`. The model
    expects features made as the params say.
    """
    clip = load_clip(params.clip, device="cpu")
    config = VadClipConfig(width=clip.embed_dim, **params.model.model_dump())
    classes = _classes(params, manifest)
    imported = import_checkpoint(checkpoint, config, classes, clip.text, load_clip_weights(params.clip))
    info = ModelInfo(
        config=config,
        classes=classes,
        clip=named_clip(clip, params.clip),
        feature_provenance=asdict(_provenance(params, clip)),
        feature_fingerprint="",  # of no features
        selection="",
        epoch=None,
        validation={},
        test_selected=True,
        test_crop=params.extract.test_crop,
        score_precision=params.score.precision,
    )
    imported.save(folder, info)
    return imported.notes


def export_from_folder(folder: Path, params: Params, out: Path) -> None:
    """Write the checkpoint of a model folder, with its CLIP; InputError if params.yaml names another one."""
    info = read_model_info(folder)
    clip = load_clip(params.clip, device="cpu")
    check_clip(folder, info, clip)
    write_checkpoint(export_state(folder, load_clip_weights(params.clip)), out)


def _classes(params: Params, manifest: Path) -> Classes:
    official = {"ucf_crime": UCF_CRIME, "xd_violence": XD_VIOLENCE}.get(params.dataset.name)
    return own_classes(params.dataset, official) if official else read_manifest(manifest).classes


def _provenance(params: Params, clip: Clip) -> Provenance:
    if params.dataset.source == "official_features":
        return Provenance.imported(clip.embed_dim)
    return Provenance.encoded(clip, params.clip.precision, params.extract.frames_per_snippet)
