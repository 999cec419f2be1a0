"""The embedded sample: its plan, its pixels, its files, and the CLIP trained on other scenes of its world."""

import colorsys
import hashlib
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_helpers import clip_params
from conftest import wait_for
from params_helpers import dataset_params
from PIL import Image
from torch.nn import functional as F

from benchmarks.contact_sheet import development_plans
from benchmarks.sample_clip.captions import all_texts
from vadclip.clip.crops import resize_frames
from vadclip.clip.frozen import load_clip
from vadclip.datasets import sample as sample_dataset
from vadclip.datasets.sample import ensure_rendered, load, sample_root
from vadclip.errors import InputError
from vadclip.sample.actors import Person, Stage
from vadclip.sample.anomalies import ANOMALIES
from vadclip.sample.canvas import Canvas
from vadclip.sample.everyday import CONFUSERS
from vadclip.sample.film import draw_frames, render_video
from vadclip.sample.scenes import SIDES, Conditions, colour_of, make_layout
from vadclip.sample.world import (
    CLASSES,
    WORLD_VERSION,
    Happening,
    make_plan,
    sample_plans,
)
from vadclip.video.frame_reader import probe, read_frames

SAMPLE = dataset_params("sample")


@pytest.fixture(scope="module")
def short_plan():
    """A second of a fight, outside the sample."""
    plan = make_plan("check_fighting_999", "check", "Fighting", 1)
    return replace(plan, num_frames=20, happenings=(Happening("Fighting", 6, 14),))


def test_the_plan_is_the_one_of_its_version():
    # A change of the plan without a new WORLD_VERSION would mix old files with new annotations.
    digest = hashlib.sha256(repr(sample_plans()).encode()).hexdigest()
    assert (WORLD_VERSION, digest[:16]) == ("street-2", "60411d2c4a08a313")


def test_counts_of_the_plan():
    plans = sample_plans()
    assert len({plan.video_id for plan in plans}) == len(plans) == 884
    for split, normal, each in (("train", 360, 60), ("test", 80, 14)):
        labels = [plan.label for plan in plans if plan.split == split]
        assert {label: labels.count(label) for label in CLASSES.labels} == {
            label: normal if label == "Normal" else each for label in CLASSES.labels
        }


def test_every_video_keeps_the_rules():
    for plan in sample_plans():
        _check_rules(plan)


def _check_rules(plan):
    assert 15 <= plan.num_frames / plan.fps <= 30
    assert plan.fps in (12, 15)
    assert plan.size in ((256, 192), (288, 216), (320, 240))
    ends = 0
    for deed in plan.happenings:
        assert ends <= deed.start < deed.end <= plan.num_frames  # one thing at a time
        ends = deed.end
    anomalies = [deed for deed in plan.happenings if deed.kind in ANOMALIES]
    assert [deed.kind for deed in anomalies] == ([] if plan.label == "Normal" else [plan.label])
    for deed in anomalies:
        assert 0.05 <= (deed.end - deed.start) / plan.num_frames <= 0.35


def test_no_two_videos_share_a_street():
    plans = [*sample_plans(), *development_plans("clip", 30), *development_plans("check", 8)]
    layouts = [make_layout(plan.layout) for plan in plans]
    assert len({layout.seed for layout in layouts}) == len(layouts)
    for plan, layout in zip(plans, layouts, strict=True):
        assert layout.side == plan.split
    families = {side: {one.family for one in layouts if one.side == side} for side in SIDES}
    assert families["train"] - families["clip"] == {"station"}
    assert families["test"] - families["train"] - families["clip"] == {"canal"}


def test_the_clip_was_trained_and_checked_in_other_colours():
    hues = {}
    for side in SIDES:
        colours = [colour_of(side, random.Random(i), 0.6, 0.9, 0.8) for i in range(400)]
        hues[side] = {round(colorsys.rgb_to_hsv(*colour)[0] * 112) for colour in colours}  # 4 steps a band
    assert hues["train"] == hues["test"]
    for one, other in combinations(("clip", "check", "test"), 2):
        # 8 bits a channel blur the two edges of each of the seven bands by one step.
        assert len(hues[one] & hues[other]) <= 14, (one, other)


def test_a_street_does_not_give_its_deed_away():
    # Else the CLIP would learn places, not deeds: guessing the label from the layout must stay near chance.
    for plans in (list(development_plans("clip", 60)), [p for p in sample_plans() if p.split == "train"]):
        anomalous = [plan for plan in plans if plan.label != "Normal"]
        for trait in (lambda plan: make_layout(plan.layout).family, lambda plan: plan.conditions.time):
            labels = {}
            for plan in anomalous:
                labels.setdefault(trait(plan), []).append(plan.label)
            guessed = sum(max(found.count(label) for label in ANOMALIES) for found in labels.values())
            assert guessed / len(anomalous) < 0.4  # 6 labels: 0.17 by chance, more by luck among 60 videos


def test_streets_look_different():
    plan = make_plan("check_normal_0998", "check", "Normal", 0)
    day = replace(plan.conditions, time="day", rain=False, noise=0.0)
    names = [plan.layout for plan in sample_plans() if plan.label == "Normal"][:24]
    empty = (
        next(draw_frames(replace(plan, layout=name, conditions=day, happenings=()), [0])) for name in names
    )
    grey = [np.asarray(image.convert("L").resize((32, 24)), float) for image in empty]
    assert min(np.abs(one - other).mean() for one, other in combinations(grey, 2)) > 5


def test_normal_videos_hold_every_confuser_in_both_splits():
    for split in ("train", "test"):
        plans = [plan for plan in sample_plans() if plan.split == split and plan.label == "Normal"]
        assert {deed.kind for plan in plans for deed in plan.happenings} == set(CONFUSERS)
        assert {plan.conditions.time for plan in plans} == {"day", "dusk", "sunset", "night"}
        assert {plan.conditions.rain for plan in plans} == {True, False}


def test_equal_plans_give_equal_bytes(short_plan, tmp_path):
    render_video(short_plan, tmp_path / "a.mp4")
    render_video(short_plan, tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    render_video(replace(short_plan, seed=short_plan.seed + 1), tmp_path / "c.mp4")
    assert (tmp_path / "a.mp4").read_bytes() != (tmp_path / "c.mp4").read_bytes()


def test_a_frame_is_the_same_alone_and_in_order(short_plan):
    whole = list(draw_frames(short_plan, range(20)))
    assert [next(draw_frames(short_plan, [i])).tobytes() for i in (3, 17)] == [
        whole[i].tobytes() for i in (3, 17)
    ]


def test_the_file_holds_the_frames_of_the_plan(short_plan, tmp_path):
    path = tmp_path / "short.mp4"
    render_video(short_plan, path)
    info = probe(str(path))
    assert (info.num_frames, info.fps, (info.width, info.height)) == (20, short_plan.fps, short_plan.size)
    decoded = np.concatenate(list(read_frames(str(path), range(20))))
    drawn = np.stack([np.asarray(image) for image in draw_frames(short_plan, range(20))])
    assert np.abs(decoded.astype(int) - drawn).mean() < 12  # codec and chroma loss only


@pytest.mark.parametrize("label", ANOMALIES)
def test_an_anomaly_fills_its_time_and_passes(label):
    # Alone on an empty street: from start to end the picture is another one than long before, it moves,
    # and long after nobody of it is left.
    plan = make_plan(f"check_{label.lower()}_997", "check", label, 0)
    layout = make_layout(plan.layout)
    calm = Conditions("day", rain=False, noise=0.0)
    for seed in range(6):
        actors = ANOMALIES[label](Stage(layout, calm, random.Random(seed)), 20.0, 24.0)

        def picture(t, actors=actors):
            canvas = Canvas(Image.new("RGB", (320, 240), (120, 120, 120)), calm.light)
            for actor in sorted((a for a in actors if a.depth(t) is not None), key=lambda a: a.depth(t)):
                actor.draw(canvas, t)
            return np.asarray(canvas.image, int)

        before = picture(0.0)
        for t in (20.0, 20.5, 21.0, 22.0, 23.0, 23.5):
            assert (np.abs(picture(t) - before).max(axis=2) > 12).mean() > 0.004, (seed, t)
        motion = [np.abs(picture(t) - picture(t + 0.5)).max(axis=2) > 30 for t in (20.2, 21.2, 22.2)]
        assert max(moved.mean() for moved in motion) > 0.002, seed
        assert not [a for a in actors if isinstance(a, Person) and a.depth(40.0) is not None]


def test_unknown_names_are_caught():
    with pytest.raises(KeyError):
        list(draw_frames(replace(sample_plans()[0], happenings=(Happening("earthquake", 1, 2),)), [0]))


def test_missing_videos_are_rendered_and_others_left_alone(short_plan, tmp_path, monkeypatch):
    plans = (short_plan, replace(short_plan, video_id="other"))
    assert ensure_rendered(tmp_path, plans) == 2
    first, other = (tmp_path / f"{plan.video_id}.mp4" for plan in plans)
    whole, kept = first.read_bytes(), other.stat().st_mtime_ns
    first.unlink()
    abandoned = tmp_path / ".other.0.tmp.mp4"
    abandoned.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    assert ensure_rendered(tmp_path, plans) == 1
    assert first.read_bytes() == whole
    assert other.stat().st_mtime_ns == kept
    assert not abandoned.exists()
    assert ensure_rendered(tmp_path, plans) == 0


def test_a_kill_in_mid_render_leaves_no_video(short_plan, tmp_path):
    long_plan = replace(short_plan, num_frames=5000)
    process = multiprocessing.get_context("spawn").Process(
        target=render_video, args=(long_plan, tmp_path / "long.mp4")
    )
    process.start()
    wait_for(lambda: any(path.stat().st_size > 0 for path in tmp_path.iterdir()))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [path.name.startswith(".") for path in tmp_path.iterdir()] == [True]


def test_the_dataset_lists_the_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rendered = []
    monkeypatch.setattr(sample_dataset, "ensure_rendered", rendered.append)
    dataset = load(SAMPLE)
    assert rendered == [tmp_path / ".cache" / "sample" / WORLD_VERSION]
    assert dataset.classes == CLASSES
    assert {video.video_id: video.split for video in dataset.videos} == {
        plan.video_id: plan.split for plan in sample_plans()
    }
    for video, plan in zip(dataset.videos, sample_plans(), strict=True):
        assert video.uri == f"{sample_root().as_posix()}/{plan.video_id}.mp4"
        deed = plan.anomaly
        assert [(s.start_frame, s.end_frame, s.label) for s in video.segments] == (
            [] if deed is None else [(deed.start, deed.end, plan.label)]
        )
    reworded = {
        label: f"{prompt} scene" for label, prompt in zip(CLASSES.labels, CLASSES.prompts, strict=True)
    }
    assert load(SAMPLE.model_copy(update={"classes": reworded})).classes.prompts[1] == "fighting scene"
    with pytest.raises(InputError, match="Normal first"):
        load(SAMPLE.model_copy(update={"classes": {"Normal": "normal", "Riot": "riot"}}))


@pytest.fixture(scope="module")
def clip():
    folder = Path(sample_dataset.__file__).parents[1] / "sample"
    params = clip_params(folder, quick_gelu=False)
    assert (folder / "clip.safetensors").stat().st_size <= 8_000_000
    return load_clip(params, device="cpu")


def test_the_clip_loads_and_knows_its_words(clip):
    assert (clip.image_size, clip.embed_dim, clip.text.context_length) == (96, 128, 77)
    assert torch.isfinite(clip.text.encode(all_texts())).all()
    with pytest.raises(InputError, match="'submarine'"):
        clip.text.encode(["a submarine"])


def test_the_clip_sees_a_blast_and_who_is_there(clip):
    # Moments outside the sample; the sample's test videos are not for this.
    plan = make_plan("check_explosion_996", "check", "Explosion", 0)
    calm = replace(plan.conditions, time="day", rain=False)
    plan = replace(plan, conditions=calm, happenings=(Happening("Explosion", 60, 100),))
    frames = np.stack([np.asarray(image) for image in draw_frames(plan, [20, 30, 66, 70])])
    features_ND = torch.from_numpy(clip.encode_crops(resize_frames(frames, clip.image_size), (0,), 4)[:, 0])
    # Each of 128 dimensions has variance 1 over the training pictures, so the mean square norm is 128 there;
    # VadCLIP's visual prompt weighs features as they are. A calm street lies nearer to the middle.
    assert ((features_ND.norm(dim=1) > 128**0.5 / 2) & (features_ND.norm(dim=1) < 128**0.5 * 2)).all()
    with torch.inference_mode():
        text_KD = F.normalize(clip.text.encode(["a ball of fire", "dark smoke", "daylight", "rain"]), dim=1)
    fire_N, smoke_N, day_N, rain_N = (F.normalize(features_ND, dim=1) @ text_KD.T).T
    assert fire_N[2:].min() > fire_N[:2].max() + 0.2
    assert smoke_N[2:].min() > smoke_N[:2].max()
    assert (day_N[:2] > rain_N[:2] + 0.1).all()


def test_layouts_are_always_the_same():
    for plan in (sample_plans()[0], sample_plans()[-1]):
        assert make_layout(plan.layout) == make_layout(plan.layout)
    with pytest.raises(AssertionError, match="no family"):
        make_layout("train/swamp/train_normal_001")
