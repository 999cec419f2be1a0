"""The frozen CLIP: what may be loaded, that features are the plain computation's and rows stand alone."""

import cv2
import numpy as np
import open_clip
import pytest
import torch
from clip_helpers import random_state, tiny_config, write_clip
from torch.nn import functional as F

from vadclip.clip.crops import crop_frames, resize_frames, resize_size
from vadclip.clip.frozen import load_clip
from vadclip.clip.text import end_positions, tokenize
from vadclip.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clip")


@pytest.fixture(scope="module")
def state():
    return random_state(tiny_config())


@pytest.fixture(scope="module")
def params(folder, state):
    return write_clip(folder, tiny_config(), state)


@pytest.fixture(scope="module")
def clip(params):
    return load_clip(params, device="cpu")


def _scene(count, height, width, seed=0):
    """Frames with both smooth shading and hard edges."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        frame = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        x, y = rng.integers(0, width // 2), rng.integers(0, height // 2)
        cv2.rectangle(frame, (int(x), int(y)), (int(x) + width // 3, int(y) + height // 3), (250, 20, 20), -1)
        frames.append(frame)
    return np.stack(frames)


# ---- resize and crops


def test_resized_size_is_the_published_one_in_proportion():
    assert resize_size(224) == (340, 256)
    assert resize_size(64) == (97, 73)  # 340 * 64 / 224 = 97.1, 256 * 64 / 224 = 73.1
    assert resize_size(336) == (510, 384)


@pytest.mark.parametrize(
    ("height", "width"), [(240, 320), (1080, 1920), (151, 201), (100, 90)], ids=lambda side: str(side)
)
def test_resize_is_bilinear_with_half_pixel_centres(height, width):
    frames = _scene(2, height, width)
    resized = resize_frames(frames, 224)
    assert resized.dtype == np.uint8
    assert resized.shape == (2, 256, 340, 3)

    # The definition, in float64: sample at (i + 0.5) * scale - 0.5, edges repeated, no antialias.
    def taps(size, new):
        at = (np.arange(new) + 0.5) * size / new - 0.5
        low = np.floor(at).astype(int)
        return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), at - low

    (y0, y1, fy), (x0, x1, fx) = taps(height, 256), taps(width, 340)
    rows = frames[:, y0] * (1 - fy)[:, None, None] + frames[:, y1] * fy[:, None, None]
    exact = rows[:, :, x0] * (1 - fx)[:, None] + rows[:, :, x1] * fx[:, None]
    assert np.abs(resized - exact).max() < 0.501  # float32 may round a tie the other way

    # cv2 computes the same in coarse fixed point.
    opencv = np.stack([cv2.resize(frame, (340, 256), interpolation=cv2.INTER_LINEAR) for frame in frames])
    assert np.abs(resized.astype(int) - opencv).max() <= 1


def test_a_frame_of_the_right_size_is_left_alone():
    frames = _scene(1, 256, 340)
    assert resize_frames(frames, 224) is frames


def test_ten_crops_of_224():
    frame = torch.from_numpy(_scene(1, 256, 340))
    crops = crop_frames(frame, 224, range(10))[0]
    image = frame[0]
    expected = [
        image[16:240, 58:282],
        image[:224, :224],
        image[:224, 116:],
        image[32:, :224],
        image[32:, 116:],
    ]
    expected += [view.flip(1) for view in expected]
    assert all(torch.equal(crop, view) for crop, view in zip(crops, expected, strict=True))


# ---- features


def test_features_are_raw(clip):
    ours = clip.encode_crops(_scene(4, *resize_size(32)[::-1]), range(10), batch_images=7)
    assert (ours.shape, ours.dtype) == ((4, 10, 64), np.float32)
    assert np.linalg.norm(ours[:, 0], axis=-1).std() > 0


def test_every_forward_pass_has_the_same_size(clip):
    sizes = []
    handle = clip.image.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape)))
    clip.encode_crops(_scene(5, *resize_size(32)[::-1]), [0, 1, 2], batch_images=4)
    handle.remove()
    assert sizes == [(4, 3, 32, 32)] * 4  # 15 images


def test_a_row_does_not_depend_on_its_neighbours(clip):
    frames = _scene(9, *resize_size(32)[::-1])
    together = clip.encode_crops(frames, [0, 3, 7], batch_images=16).astype(np.float16)
    alone = np.concatenate([clip.encode_crops(frames[i : i + 1], [0, 3, 7], 16) for i in range(len(frames))])
    assert np.array_equal(together, alone.astype(np.float16))
    one_crop = clip.encode_crops(frames[4:], [3], batch_images=16).astype(np.float16)
    assert np.array_equal(together[4:, 1:2], one_crop)


def test_no_frames_give_no_rows(clip):
    assert clip.encode_crops(_scene(1, *resize_size(32)[::-1])[:0], [0, 1], 4).shape == (0, 2, 64)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_stays_close_and_keeps_text_and_fingerprint(tmp_path, clip, state, precision):
    half = load_clip(write_clip(tmp_path, tiny_config(), state, precision=precision), device="cpu")
    frames = _scene(3, *resize_size(32)[::-1])
    ours, full = (torch.from_numpy(each.encode_crops(frames, [0], 4)[:, 0]) for each in (half, clip))
    assert float(F.cosine_similarity(ours, full).min()) > 0.999
    assert not torch.equal(ours, full)
    assert half.fingerprint == clip.fingerprint
    assert torch.equal(half.text.encode(["a fight"]), clip.text.encode(["a fight"]))


# ---- text


def test_tokens_are_open_clips_and_case_does_not_count():
    prompts = ["Car accident", "roadAccidents", "a"]
    assert torch.equal(tokenize(prompts), open_clip.get_tokenizer("ViT-B-16")(prompts))
    assert torch.equal(tokenize(["ROAD accident"]), tokenize(["road Accident"]))


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        (" ", "prompt ' ' is empty: give the class some words"),
        ("fire " * 80, r"has 80 tokens but the text tower takes 75: shorten it"),
    ],
)
def test_prompts_that_do_not_fit(prompt, complaint):
    with pytest.raises(InputError, match=complaint):
        tokenize([prompt])


def test_text_tower_equals_open_clip_and_needs_no_position_after_the_end(clip, state):
    plain = open_clip.CLIP(**tiny_config(), quick_gelu=True)
    plain.load_state_dict(state)
    prompts = ["normal", "two people fighting in a street", "car accident"]
    tokens_KL = tokenize(prompts)
    expected = plain.encode_text(tokens_KL).detach()
    assert torch.allclose(clip.text.encode(prompts), expected, atol=1e-6)  # computes 8 positions
    embeddings = clip.text.token_embeddings(tokens_KL)
    whole = clip.text(embeddings, end_positions(tokens_KL))  # computes 77
    assert torch.allclose(whole, expected, atol=1e-6)
    assert expected.shape == (3, clip.embed_dim)


def test_gradients_reach_the_embeddings_and_nothing_else(clip):
    tokens_KL = tokenize(["fire"])
    embeddings = clip.text.token_embeddings(tokens_KL).requires_grad_()
    clip.text(embeddings, end_positions(tokens_KL)).sum().backward()
    assert embeddings.grad[0, :3].abs().sum() > 0
    assert embeddings.grad[0, 3:].abs().sum() == 0  # after the end of the text
    assert not any(parameter.requires_grad for parameter in clip.text.parameters())


def test_other_text_sizes_come_from_the_config(tmp_path):
    config = tiny_config(context_length=20, width=32, layers=1) | {"embed_dim": 48}
    clip = load_clip(write_clip(tmp_path, config), device="cpu")
    assert (clip.text.context_length, clip.text.width, clip.embed_dim) == (20, 32, 48)
    assert clip.text.encode(["fire"]).shape == (1, 48)
