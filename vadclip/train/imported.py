"""The authors' checkpoint in place of a training: `train.checkpoint` in params.yaml."""

from pathlib import Path

from vadclip.clip.frozen import load_clip_weights
from vadclip.config import ClipParams
from vadclip.model.checkpoints import import_checkpoint, read_checkpoint
from vadclip.model.vadclip import VadClip
from vadclip.train.task import Task
from vadclip.train.validation import normal_peaks


def import_into(folder: Path, path: Path, task: Task, clip: ClipParams) -> tuple[VadClip, tuple[str, ...]]:
    """Write the checkpoint at `path` as the model folder of `task`; return the model, on the CPU, and notes.

    Raises InputError if the checkpoint is not one, does not fit the params, or holds another CLIP.
    """
    imported = import_checkpoint(
        read_checkpoint(path), task.config, task.classes, task.text, load_clip_weights(clip)
    )
    imported.save(folder, task.model_info(None, None, normal_peaks(task, imported.model)))
    return imported.model, tuple(imported.notes)
