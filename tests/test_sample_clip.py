"""How the sample's CLIP is taught: tags that are true, captions that fit, a training that repeats."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.sample_clip import train
from benchmarks.sample_clip.captions import Caption, all_texts, write_caption
from benchmarks.sample_clip.pictures import SIDE, UNKNOWN, Scene, describe, street_pictures
from benchmarks.sample_clip.store import PictureStore
from benchmarks.sample_clip.tags import LOOSE, NAMES, NUMBER, TAGS
from vadclip.clip.frozen import load_clip
from vadclip.config import ClipParams
from vadclip.sample.scenes import Conditions, make_layout
from vadclip.sample.world import CLASSES

WINDOW = (56.0, 16.0, 208.0)  # left, top and side of what a picture shows, in canvas units


@pytest.fixture
def scene():
    return Scene(make_layout("clip/street/tags"), Conditions("day", rain=False, noise=0.0), random.Random(3))


def _states(scene):
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    things = sorted(scene.things, key=lambda thing: thing.depth)
    return dict(zip(NAMES, describe(blank, things, scene, WINDOW).state.tolist(), strict=True))


def test_tags_say_what_was_put_into_a_picture(scene):
    scene.person(95, 190, "run", 1, "bag")
    scene.person(240, 192, "lie", 1)
    found = _states(scene)
    true = {name for name, state in found.items() if state == 1}
    assert true == {"person", "run", "bag", "lie", "two people", "no car", "day", "street"}
    assert UNKNOWN not in found.values()


def test_what_the_edge_or_a_car_hides_is_unknown(scene):
    height = scene.person(262, 190, "kick", 1)  # its middle stands at the window's right edge
    cut = _states(scene)
    assert 100 < height < 130
    assert (cut["kick"], cut["person"], cut["nobody"], cut["one person"], cut["two people"]) == (
        -1,
        -1,
        -1,
        -1,
        0,
    )
    scene.things.clear()
    scene.person(160, 150, "crouch", 1)
    scene.car(160, 165, 0.0)
    hidden = _states(scene)
    assert (hidden["crouch"], hidden["one car"]) == (UNKNOWN, 1)
    scene.things.clear()
    scene.person(500, 190, "kick", 1)
    assert (_states(scene)["kick"], _states(scene)["nobody"]) == (0, 1)


def test_a_cars_state_is_told_where_it_shows(scene):
    # The nose, on the right, is out of view: a dent there cannot be told, the lamps at the tail can.
    car = scene.car(240, 200, 0.0, dent=True, brakes=True)
    found = _states(scene)
    assert car.length > 90
    assert (found["dent"], found["brake lights"]) == (0, 1)


def test_every_tag_comes_up_and_pictures_repeat():
    pictures = [picture for street in range(40) for picture in street_pictures(street)]
    states = np.stack([picture.state for picture in pictures])
    seldom = [NAMES[i] for i in np.flatnonzero((states == 1).sum(0) < 3)]
    assert not seldom
    again = next(street_pictures(7))
    assert np.array_equal(again.pixels_SS3, pictures[70].pixels_SS3)
    assert np.array_equal(again.state, pictures[70].state)


def test_captions_claim_only_what_is_true():
    pictures = [picture for street in range(4) for picture in street_pictures(street)]
    state, tags, shown = (
        np.stack([getattr(p, name) for p in pictures]) for name in ("state", "tags", "shown")
    )
    rng = random.Random(1)
    captions = [write_caption(state, tags, shown, rng) for _ in range(400)]
    assert all(1 in caption.fits(state, tags, shown, rng) for caption in captions)
    assert len({caption.text for caption in captions}) > 300
    loose = [caption for caption in captions if caption.loose_for is not None]
    assert 0 < len(loose) < 40
    assert not any(
        prompt in caption.text for caption in captions if caption not in loose for prompt in CLASSES.prompts
    )


def test_a_caption_binds_what_one_person_does():
    # 0: somebody runs with a bag. 1: one runs, another has a bag. 2: the runner with a bag is half seen.
    run, bag, stand = NUMBER["run"], NUMBER["bag"], NUMBER["stand"]
    state = np.zeros((3, len(NAMES)), np.int8)
    tags = np.full((3, 2, 4), -1, np.int8)
    tags[0, 0, :2] = tags[2, 0, :2] = run, bag
    tags[1, 0, 0], tags[1, 1, :2] = run, (stand, bag)
    shown = np.array([[True, False], [True, True], [False, False]])
    caption = Caption("a person running with a bag", (), ((run, bag),))
    assert caption.fits(state, tags, shown, random.Random(0)).tolist() == [1, 0, UNKNOWN]
    state[:, NUMBER["night"]] = 0, 1, 1
    by_night = Caption("a person running with a bag, night", (NUMBER["night"],), ((run, bag),))
    assert by_night.fits(state, tags, shown, random.Random(0)).tolist() == [0, 0, UNKNOWN]


def test_class_names_are_loose_words_only():
    assert set(LOOSE) == set(CLASSES.prompts)
    assert all(name in TAGS for names in LOOSE.values() for name in names)
    phrases = {phrase for group in TAGS.values() for phrase in group}
    assert not any(prompt in phrase.split() for prompt in CLASSES.prompts for phrase in phrases)
    assert set(CLASSES.prompts) <= set(all_texts())


def test_the_sigmoid_loss_by_hand():
    # Right, wrong and unknown at logit 2: log(1 + e^-2), log(1 + e^2), left out.
    logits = torch.tensor([[2.0, 2.0, 2.0]])
    expected = (np.log1p(np.exp(-2)) + np.log1p(np.exp(2))) / 2
    assert train.fit(logits, torch.tensor([[1, 0, UNKNOWN]])).item() == pytest.approx(expected)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    PictureStore(folder, 20).put(0, list(street_pictures(0)))
    PictureStore(folder, 20).put(10, list(street_pictures(1)))  # as another process would go on
    return PictureStore(folder)


def test_a_mirrored_and_shifted_picture_keeps_its_boxes_on_its_things(store):
    batches = train.Batches(store, 0, batch=12)
    images, _, cells, _, _ = batches.next()
    assert (store.filled, images.shape, cells.shape) == (20, (12, 3, 96, 96), (12, len(NAMES), 6, 6))
    # A box over the right half of a stored picture lies on the left half of its mirror image.
    box = np.zeros((12, 24, 4))
    box[:, 0] = 0.5, 0.0, 1.0, 1.0
    tags, shown = np.full((12, 24, 4), -1, np.int8), np.ones((12, 24), bool)
    tags[:, 0, 0] = NUMBER["run"]
    there = batches._cells(train.mirror(box, np.ones(12, bool)), tags, shown)[0, NUMBER["run"]]
    assert there[:, :3].all()
    assert not there[:, 3:].any()


def test_training_repeats_and_what_is_stored_is_what_was_trained(store, tmp_path):
    def learn():
        torch.manual_seed(1)
        learner, batches, rng = (
            train.Learner(train.CompactTokens()),
            train.Batches(store, 1, batch=8),
            random.Random(1),
        )
        for _ in range(2):
            loss, parts = train.train_step(learner, batches, rng)
            assert np.isfinite(list(parts.values())).all()
            learner.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in learner.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.01 * parameter.grad
        return learner.eval()

    one, two = learn(), learn()
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )
    train.save_file(one.state_to_store(), tmp_path / "clip.safetensors")
    files = {"model": str(train.CONFIG), "pretrained": str(tmp_path / "clip.safetensors")}
    clip = load_clip(ClipParams(**files, quick_gelu=False, precision="fp32"), device="cpu")
    picture = np.array(Image.new("RGB", (146, 110), (200, 90, 40)))
    picture[20:80, 50:90] = 30
    feature_D = torch.from_numpy(clip.encode_crops(picture[None], (0,), 1)[0, 0])
    pixels = torch.from_numpy(picture[7:103, 25:121][None]).float()
    with torch.inference_mode():
        wanted_D = one.images(((pixels - clip.mean_3) / clip.std_3).permute(0, 3, 1, 2))[0][0]
        texts = [one.texts(list(CLASSES.prompts)), clip.text.encode(CLASSES.prompts)]
    # bfloat16 in training and float16 on disk keep 8 and 11 bits.
    assert F.cosine_similarity(feature_D, wanted_D, dim=0).item() > 0.999
    assert torch.allclose(*texts, atol=0.02)
