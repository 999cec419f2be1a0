"""What the train stage does: fit a model, or import the authors' checkpoint, and write its folder."""

from collections.abc import Mapping
from pathlib import Path

import torch

from vadclip.checkout import given_path
from vadclip.clip.frozen import load_clip_weights
from vadclip.config import Params
from vadclip.events import Peak
from vadclip.model.folder import save_model
from vadclip.model.inference import branch_scores, class_texts, video_output
from vadclip.model.official import import_checkpoint, read_checkpoint
from vadclip.model.vadclip import VadClip
from vadclip.train.history import History, TrainLogger
from vadclip.train.loop import train
from vadclip.train.resume import ResumeFolder
from vadclip.train.task import Task


def fit_or_import(
    folder: Path,
    task: Task,
    params: Params,
    resume: ResumeFolder,
    logger: TrainLogger,
) -> tuple[VadClip, Mapping[str, float]]:
    """Train the model of `task`, or take it from `train.checkpoint`, and write `folder`.

    epochs.json and steps.csv tell how the training went; of an imported model they are empty. Returns the
    model, in eval mode, and the numbers that sum up its training. Raises InputError if the checkpoint is not
    one, does not fit the params, or holds another CLIP, and what `train` raises.
    """
    device = torch.device(params.execution.device)
    if task.params.checkpoint is not None:
        checkpoint = read_checkpoint(given_path(task.params.checkpoint))
        weights = load_clip_weights(params.clip)
        imported = import_checkpoint(checkpoint, task.config, task.classes, task.text, weights)
        imported.save(folder, task.model_info(None, None, normal_peaks(task, imported.model)))
        for note in imported.notes:
            print(f"train: {note}")
        model, history, summary = imported.model.to(device), History(), {}
    else:
        if not resume.file.exists() and (others := resume.unfinished_others()):
            print(
                f"train: begins at the start: what is unfinished in {others[0].parent} ({len(others)}) is of "
                "other params, features or code"
            )
        readers = params.execution.reader_threads
        trained = train(task, device=device, resume=resume, logger=logger, readers=readers)
        peaks = normal_peaks(task, trained.model)
        save_model(folder, trained.model, task.model_info(trained.epoch, trained.figures, peaks))
        model, history, summary = trained.model, trained.history, trained.summary()
    history.write(folder)
    return model, summary


def normal_peaks(task: Task, model: VadClip) -> tuple[Peak, ...]:
    """Return the highest anomaly score of each normal validation video, in float32; leaves eval mode on.

    The score is the classification branch's; a model without one gives 1 - p(normal).
    """
    text_KD = class_texts(model.eval(), "fp32")
    peaks = []
    for video in task.val_videos:
        if video.labels != (task.classes.normal,):
            continue
        output = video_output(model, task.features.array(video.video_id, task.test_crop), text_KD, "fp32")
        score_1N, _ = branch_scores(output)
        hours = video.num_frames / video.fps / 3600 if video.fps else None
        peaks.append(Peak(video.video_id, float(score_1N.max()), hours))
    return tuple(peaks)
