"""What runs otherwise on a GPU: the one-pass QuickGELU (checked anywhere); rows, training and scores there.

test_golden_model.py and test_golden_recipe.py compare a GPU with the official code.
"""

import copy
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from clip_helpers import clip_params, random_state, tiny_config, write_clip
from devices import DEVICES, needs_gpu
from score_helpers import make_video
from training_helpers import CLASSES, CPU, Recorder, task, text_tower, toy

from vadclip.clip.crops import resize_size
from vadclip.clip.frozen import load_clip
from vadclip.clip.on_gpu import OnePassQuickGelu, fuse_quick_gelu
from vadclip.model.vadclip import VadClip
from vadclip.score.scores import ScoreInfo
from vadclip.score.scoring import score_videos
from vadclip.train.loop import train
from vadclip.train.resume import ResumeFolder

SAMPLE = Path(__file__).resolve().parents[1] / "vadclip" / "sample"
# Width, patches and batch of ViT-B/16, so that a GPU takes the kernels that it takes for the real one.
WIDE = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "patch_size": 16, "width": 768, "layers": 2, "head_width": 64},
    "text_cfg": {"width": 64, "heads": 2, "layers": 1, "context_length": 77, "vocab_size": 49408},
}
RECIPE_BATCH = 256  # execution.encoder_batch of the recipes


def _tower(quick_gelu):
    torch.manual_seed(0)
    return open_clip.CLIP(**tiny_config(), quick_gelu=quick_gelu).visual.requires_grad_(False).eval()


def _pictures(count, image_size, seed=0):
    """Noise over shades, so that pictures differ in more than noise."""
    random = np.random.default_rng(seed)
    width, height = resize_size(image_size)
    shades = random.integers(0, 200, (count, 1, 1, 3))
    return (shades + random.integers(0, 56, (count, height, width, 3))).astype(np.uint8)


def _sample_clip(device, precision="fp32"):
    return load_clip(clip_params(SAMPLE, quick_gelu=None, precision=precision), device=device)


# ---- one pass over the widest tensor


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_one_pass_is_the_same_function(device, dtype, most):
    plain = _tower(quick_gelu=True).to(device, dtype)
    fused = copy.deepcopy(plain)
    assert fuse_quick_gelu(fused) == tiny_config()["vision_cfg"]["layers"]
    # Of both signs and so large that sigmoid saturates.
    images = 20 * torch.randn(6, 3, 32, 32, device=device, dtype=dtype)
    with torch.inference_mode():
        expected, got = plain(images), fused(images)
    assert float((got - expected).abs().max()) <= most * float(expected.abs().max())
    assert fused.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_one_pass_is_no_coarser_than_three(dtype):
    exact = _tower(quick_gelu=True).double()
    images = torch.randn(32, 3, 32, 32)
    plain = copy.deepcopy(exact).to(dtype)
    fused = copy.deepcopy(plain)
    fuse_quick_gelu(fused)
    with torch.inference_mode():
        expected = exact(images.to(dtype).double())
        errors = [float((tower(images.to(dtype)).double() - expected).norm()) for tower in (plain, fused)]
    assert 0 < errors[1] < 1.2 * errors[0]


def test_other_activations_are_left_alone():
    tower = _tower(quick_gelu=False)
    assert fuse_quick_gelu(tower) == 0


@pytest.mark.parametrize(
    ("device", "precision", "fused"),
    [
        ("cpu", "fp32", False),
        ("cpu", "bf16", False),
        pytest.param("cuda", "fp32", False, marks=needs_gpu),
        pytest.param("cuda", "fp16", True, marks=needs_gpu),
        pytest.param("cuda", "bf16", True, marks=needs_gpu),
    ],
)
def test_only_a_gpu_in_half_precision_fuses(tmp_path, device, precision, fused):
    clip = load_clip(write_clip(tmp_path, tiny_config(), precision=precision), device=device)
    assert any(isinstance(module, OnePassQuickGelu) for module in clip.image.modules()) == fused


# ---- rows


@needs_gpu
def test_rows_of_a_gpu_are_those_of_a_cpu():
    pictures = _pictures(20, _sample_clip("cpu").image_size)
    ours, expected = (
        _sample_clip(device).encode_crops(pictures, range(10), RECIPE_BATCH) for device in ("cuda", "cpu")
    )
    assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max()


@needs_gpu
@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.99999), ("bf16", 0.999)])
def test_half_precision_of_a_gpu_stays_close(precision, least):
    pictures = _pictures(20, _sample_clip("cpu").image_size)
    half, full = (
        torch.from_numpy(_sample_clip("cuda", name).encode_crops(pictures, range(10), RECIPE_BATCH))
        for name in (precision, "fp32")
    )
    assert float(torch.cosine_similarity(half, full, dim=-1).min()) > least
    assert not torch.equal(half, full)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_row_of_a_gpu_does_not_depend_on_its_neighbours(tmp_path, precision):
    params = write_clip(tmp_path, WIDE, random_state(WIDE), precision=precision)
    clip = load_clip(params, device="cuda")
    picture, others = _pictures(1, 224), _pictures(RECIPE_BATCH, 224, seed=1)
    (expected,) = clip.encode_crops(picture, [0], RECIPE_BATCH)[0]  # alone in a padded batch
    for position in (0, 1, 100, RECIPE_BATCH - 1):
        batch = others.copy()
        batch[position] = picture[0]
        rows = clip.encode_crops(batch, [0], RECIPE_BATCH)
        assert np.array_equal(rows[position, 0], expected), f"at {position} of other pictures"
    everywhere = clip.encode_crops(picture.repeat(RECIPE_BATCH, axis=0), [0], RECIPE_BATCH)[:, 0]
    assert (everywhere == expected).all(), f"differs at {np.flatnonzero((everywhere != expected).any(1))}"


# ---- training and scores


class _Interruption(BaseException):
    pass


class _StopsAfterEpoch(Recorder):
    def epoch(self, record):
        super().epoch(record)
        if record.epoch == 2:
            raise _Interruption


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_on_a_gpu_repeats_and_resumes_to_the_same_weights(tmp_path, precision):
    text = text_tower()

    def run(name, logger):
        resume = ResumeFolder(tmp_path / name)
        return train(
            task(text, precision=precision),
            device=torch.device("cuda"),
            resume=resume,
            logger=logger,
            readers=0,
        )

    logger = Recorder()
    undisturbed = run("undisturbed", logger).model.state_dict()
    assert logger.steps[-1].loss < logger.steps[0].loss
    again = run("again", Recorder()).model.state_dict()
    with pytest.raises(_Interruption):
        run("interrupted", _StopsAfterEpoch())
    torch.rand(10, device="cuda")
    resumed = run("interrupted", Recorder()).model.state_dict()
    for name, value in undisturbed.items():
        assert torch.equal(again[name], value), f"a second training has another {name}"
        assert torch.equal(resumed[name], value), f"a resumed training has another {name}"


@needs_gpu
def test_a_training_on_a_gpu_is_that_of_a_cpu(tmp_path):
    losses = {}
    for device in (CPU, torch.device("cuda")):
        logger = Recorder()
        resume = ResumeFolder(tmp_path / device.type)
        train(task(text_tower()), device=device, resume=resume, logger=logger, readers=0)
        losses[device.type] = [record.loss for record in logger.steps]
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=0, atol=1e-4)


@needs_gpu
def test_scores_of_a_gpu_are_those_of_a_cpu():
    features, videos, _ = toy()
    config = task().config
    torch.manual_seed(0)
    model = VadClip(config, CLASSES, text_tower()).eval()
    info = ScoreInfo(CLASSES.labels, test_selected=False, excluded={})
    videos = [make_video(video.video_id, 1) for video in videos]
    plain_KD = torch.eye(3, config.width)
    more = {"plain_text_KD": plain_KD, "crop": 0, "precision": "fp32", "info": info, "batch_chunks": 3}
    found = [score_videos(model.to(device), features, videos, **more) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(found[1].anomaly_score_N, found[0].anomaly_score_N, rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        found[1].class_probabilities_NK, found[0].class_probabilities_NK, rtol=0, atol=2e-5
    )
    np.testing.assert_allclose(found[1].zero_shot_NK, found[0].zero_shot_NK, rtol=0, atol=2e-5)
