"""From videos to rows: against a plain computation, whatever the decoder, the units and the interruptions."""

import errno
import resource
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import open_clip
import pytest
import torch
from clip_helpers import tiny_config
from conftest import python
from extract_helpers import extract_here, extract_params, tiny_clip
from feature_helpers import all_rows, contents
from manifest_helpers import make_manifest, make_video
from params_helpers import execution_params
from safetensors.torch import load_file
from video_helpers import rotate_mp4, write_video

from vadclip.clip.identity import ClipIdentity, identify_clip
from vadclip.errors import InputError
from vadclip.extract.coverage import Gap
from vadclip.extract.encode import OpenVideo, extract, frame_numbers
from vadclip.extract.units import Slice, Unit, plan_units, split_unit
from vadclip.extract.worker import ExtractWorker
from vadclip.features.provenance import Provenance
from vadclip.features.reader import FeatureReader
from vadclip.video.frame_reader import probe

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four videos of different kinds, 64 + 3 frames and more."""
    folder = tmp_path_factory.mktemp("corpus")
    write_video(folder / "a.mp4", 67)
    write_video(folder / "b.mkv", 40, size=(128, 96), gop=7)
    rotate_mp4(write_video(folder / "c.mp4", 35), 90)
    write_video(folder / "d.avi", 50, codec="mpeg4")
    return folder


def manifest_of(corpus, names="abcd"):
    videos = []
    for path in sorted(corpus.iterdir()):
        if path.stem in names:
            split = "test" if path.stem == "b" else "train"
            info = probe(path)
            videos.append(make_video(path.stem, info.num_frames, split, uri=path.name, intact=info.intact))
    return make_manifest(videos)


# The straightforward computation


def plain_frames(path, rotation=0):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [np.rot90(frame, rotation) for frame in frames]


def plain_resize(frame, width, height):
    """Bilinear, half-pixel centres, clamped at the border, rounded to whole grey levels."""

    def weights(size, target):
        at = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size - 1), at - low

    low, high, part = weights(frame.shape[0], height)
    rows = frame[low] * (1 - part)[:, None, None] + frame[high] * part[:, None, None]
    low, high, part = weights(frame.shape[1], width)
    return np.round(rows[:, low] * (1 - part)[:, None] + rows[:, high] * part[:, None])


def plain_crop(picture, crop, size):
    height, width = picture.shape[:2]
    x, y = {
        0: ((width - size) // 2, (height - size) // 2),
        1: (0, 0),
        2: (width - size, 0),
        3: (0, height - size),
        4: (width - size, height - size),
    }[crop % 5]
    cut = picture[y : y + size, x : x + size]
    return cut[:, ::-1] if crop >= 5 else cut


def plain_features(frames, crop, weights, size, quick_gelu=True):
    """Features [frames, 64] of whole frames, by open_clip's own encode_image, one by one."""
    model = open_clip.CLIP(**tiny_config(size), quick_gelu=quick_gelu)
    state = {key: value for key, value in load_file(weights).items() if "token_embedding" not in key}
    model.load_state_dict(state, strict=False)
    model.eval()
    width, height = {32: (49, 37), 64: (97, 73), 224: (340, 256)}[size]
    mean, std = (np.array(values) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    rows = []
    for frame in frames:
        cut = plain_crop(plain_resize(frame.astype(np.float64), width, height), crop, size)
        image = torch.from_numpy((cut / 255 - mean) / std).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            rows.append(model.encode_image(image)[0].numpy())
    return np.array(rows)


@pytest.mark.parametrize(("size", "quick_gelu"), [(64, True), (224, False)])
def test_ten_crops_through_the_whole_path_equal_a_plain_computation(size, quick_gelu, corpus, tmp_path):
    clip = tiny_clip(tmp_path / "clip", size).model_copy(update={"quick_gelu": quick_gelu})
    manifest = manifest_of(corpus, "abc")
    filled, _ = extract_here(tmp_path, manifest, corpus, clip, extract_params())
    reader = FeatureReader(tmp_path / "features", manifest)
    for name, rotation, crops in (("a.mp4", 0, range(10)), ("c.mp4", -1, range(10)), ("b.mkv", 0, [0])):
        frames = plain_frames(corpus / name, rotation)
        assert reader.rows(name[0]) == len(frames) // 16
        for crop in crops:
            chosen = [frames[16 * row + 8] for row in range(len(frames) // 16)]
            expected = plain_features(chosen, crop, Path(clip.pretrained), size, quick_gelu)
            got = reader.array(name[0], crop).astype(np.float32)
            # float16 keeps 11 bits; a grey level that rounds the other way adds a little.
            np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(expected).max(), rtol=1e-3)
    both = [reader.array("a", crop).astype(np.float32) for crop in (0, 1)]
    assert np.abs(both[0] - both[1]).max() > 20 * 2e-3 * np.abs(both[0]).max()  # else any crop would do
    assert filled.counts["images"] == (4 + 2) * 10 + 2


def test_the_mean_of_sixteen_frames(corpus, tmp_path):
    clip = tiny_clip(tmp_path / "clip", 32)
    manifest = manifest_of(corpus, "a")
    params = extract_params(frames_per_snippet=16, train_crops=1)
    filled, _ = extract_here(tmp_path, manifest, corpus, clip, params, unit_images=33)
    features = plain_features(plain_frames(corpus / "a.mp4")[:64], 0, Path(clip.pretrained), 32)
    expected = features.reshape(4, 16, -1).mean(axis=1)
    got = FeatureReader(tmp_path / "features", manifest).array("a", 0).astype(np.float32)
    np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(expected).max(), rtol=1e-3)
    assert filled.counts["images"] == 64


def test_rows_depend_neither_on_decoder_nor_on_units(corpus, tmp_path):
    clip = tiny_clip(tmp_path / "clip")
    manifest = manifest_of(corpus)
    stores = []
    for number, (decoder, unit_images) in enumerate(
        [("decord", 1000), ("pyav", 1000), ("decord", 10), ("pyav", 7)]
    ):
        folder = tmp_path / str(number)
        filled, _ = extract_here(
            folder, manifest, corpus, clip, extract_params(), decoder=decoder, unit_images=unit_images
        )
        stores.append(all_rows(folder, manifest))
        assert len(stores[-1]) == 3 * 10 + 1
        assert (filled.counts["slices_decord"] > 0) == (decoder == "decord")
        assert filled.counts["slices_pyav"] > 0
    assert stores[0] == stores[1] == stores[2] == stores[3]


# Units


def test_units_are_cut_packed_and_sorted():
    long = make_video("long", 16 * 100)
    small = [make_video(f"s{number}", 16 * 3) for number in range(5)]
    other = make_video("other", 16 * 7, "test")
    gaps = [
        *[(video, f"/v/{video.video_id}", Gap((0, 1), 0, video.num_snippets)) for video in [long, *small]],
        (other, "/v/other", Gap((5,), 2, 7)),
    ]
    units = list(plan_units(gaps, frames_per_snippet=1, unit_images=20))
    assert [unit.images for unit in units] == [20] * 10 + [18, 12, 5]
    assert [(part.start, part.stop) for unit in units[:10] for part in unit.slices] == [
        (start, start + 10) for start in range(0, 100, 10)
    ]
    assert [part.video_id for part in units[10].slices] == ["s0", "s1", "s2"]
    assert [(part.video_id, part.crops, part.start, part.stop) for part in units[12].slices] == [
        ("other", (5,), 2, 7)
    ]
    # 16 frames a snippet; one snippet is never cut.
    units = list(plan_units([gaps[-1]], frames_per_snippet=16, unit_images=20))
    assert [(unit.images, unit.slices[0].start) for unit in units] == [(16, start) for start in range(2, 7)]
    assert list(plan_units([], frames_per_snippet=1, unit_images=20)) == []
    # One that can only be decoded from its start is cut where its rows would take too much memory.
    whole = (replace(long, seekable=False), "/v/long", Gap((0, 1), 0, 100))
    for most, counts in ((200, [200]), (100, [100, 100]), (0, [20] * 10)):
        units = list(plan_units([whole], frames_per_snippet=1, unit_images=20, most_images=most))
        assert [unit.images for unit in units] == counts


def test_a_unit_splits_into_single_videos():
    slices = tuple(Slice(name, "h", f"/{name}", 40, (0,), 0, 2) for name in "abc")
    assert [part.slices for part in split_unit(Unit(slices, 1))] == [(part,) for part in slices]


def test_the_last_slice_is_read_to_the_videos_end():
    assert Slice("a", "h", "/a", 69, (0,), 0, 2).until_frame == 32
    assert Slice("a", "h", "/a", 69, (0,), 2, 4).until_frame == 69
    assert list(frame_numbers(Slice("a", "h", "/a", 69, (0,), 2, 4), 1)) == [40, 56]
    assert list(frame_numbers(Slice("a", "h", "/a", 69, (0,), 1, 2), 16)) == list(range(16, 32))


class Grey:
    """An encoder whose features are the mean grey level and the crop; notes its batches."""

    image_size, embed_dim = 32, 2

    def __init__(self):
        self.calls = []

    def encode_crops(self, frames_NHW3, crops, batch_images):
        self.calls.append(len(frames_NHW3))
        grey_N = frames_NHW3.mean(axis=(1, 2, 3))
        return np.stack([np.stack([grey_N, np.full(len(grey_N), crop)], -1) for crop in crops], 1).astype(
            np.float32
        )


def test_encoder_batches_are_filled_across_videos(corpus):
    """3 crops in batches of 8 images: 8 frames make three whole batches; only the last is smaller."""
    encoder, beats = Grey(), []
    slices = [Slice(p.stem, "h", str(p), probe(p).num_frames, (0, 1, 5), 0, probe(p).num_frames // 16)
              for p in sorted(corpus.iterdir())]  # fmt: skip
    out = extract(Unit(tuple(slices), 1), encoder, OpenVideo("pyav"), batch_images=8, beat=beats.append)
    assert encoder.calls == [8, 3]  # 4 + 2 + 2 + 3 snippets
    assert sum(beats) == 33
    assert [(block.video_id, block.crop, block.rows) for block in out.blocks] == [
        (name, crop, rows) for name, rows in zip("abcd", (4, 2, 2, 3), strict=True) for crop in (0, 1, 5)
    ]
    assert all(array[:, 1].tolist() == [block.crop] * block.rows
               for block, array in zip(out.blocks, out.arrays, strict=True))  # fmt: skip
    assert set(out.seconds) == {"open", "decode", "resize", "wait", "encode"}
    assert out.counts == {"images": 33, "frames": 67 + 40 + 35 + 50, "slices_pyav": 4}


def test_a_video_at_fault_fails_alone_and_the_machines_faults_are_raised(corpus, tmp_path, monkeypatch):
    (tmp_path / "bad.mp4").write_bytes(b"")
    slices = [
        Slice("a", "h", str(corpus / "a.mp4"), 67, (0,), 0, 4),
        Slice("bad", "h", str(tmp_path / "bad.mp4"), 99, (0,), 0, 6),
        Slice("gone", "h", str(tmp_path / "gone.mp4"), 99, (0,), 0, 6),
        Slice("changed", "h", str(corpus / "b.mkv"), 99, (0,), 0, 6),
        Slice("c", "h", str(corpus / "c.mp4"), 35, (0,), 0, 2),
    ]
    unit = Unit(tuple(slices), 1)
    out = extract(unit, Grey(), OpenVideo("decord"), batch_images=4, beat=lambda amount: None)
    assert [(block.video_id, block.rows) for block in out.blocks] == [("a", 4), ("c", 2)]
    assert [(failure.video_id, failure.error, failure.lasting) for failure in out.failures] == [
        ("bad", "the file is empty", True),
        ("gone", "there is no such file", False),
        (
            "changed",
            "it has 40 frames and the manifest says 99: the file changed after ingest, which must run again",
            True,
        ),
    ]

    class Broken(Grey):
        def encode_crops(self, *arguments):
            return super().encode_crops(*arguments) + np.float32("inf")

    out = extract(unit, Broken(), OpenVideo("decord"), batch_images=4, beat=lambda amount: None)
    assert out.blocks == []
    assert out.failures[0].error == "its features are not finite: use clip.precision bf16 or fp32"

    def unreadable(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("vadclip.video.frame_reader.scan", unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        extract(unit, Grey(), OpenVideo("decord"), batch_images=4, beat=lambda amount: None)


def test_a_failing_encoder_leaves_no_thread_behind(corpus):
    import threading

    class Failing(Grey):
        def encode_crops(self, *arguments):
            raise RuntimeError("out of memory")

    unit = Unit((Slice("a", "h", str(corpus / "a.mp4"), 67, (0,), 0, 4),) * 9, 1)
    with pytest.raises(RuntimeError, match="out of memory"):
        extract(unit, Failing(), OpenVideo("pyav"), batch_images=4, beat=lambda amount: None)
    assert [thread.name for thread in threading.enumerate() if thread.name == "decode"] == []


# The worker and the CLIP's identity


def test_a_worker_refuses_a_machine_that_cannot_work(tmp_path):
    clip = tiny_clip(tmp_path / "clip")
    identity = identify_clip(clip, tmp_path)
    other = replace(Provenance.encoded(identity, "fp32", 1), clip_fingerprint="other")
    with pytest.raises(InputError, match=r"node .* has other CLIP weights than the driver"):
        ExtractWorker(clip, execution_params(), other, {})


def test_a_full_gpu_ends_the_run(corpus, tmp_path, monkeypatch):
    clip = tiny_clip(tmp_path / "clip")
    provenance = Provenance.encoded(identify_clip(clip, tmp_path), "fp32", 1)
    worker = ExtractWorker(clip, execution_params(encoder_batch=4), provenance, {})

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(worker._clip), "encode_crops", full)
    unit = Unit((Slice("a", "h", str(corpus / "a.mp4"), 67, (0,), 0, 4),), 1)
    with pytest.raises(InputError, match="GPU memory is full with batches of 4 images: lower"):
        worker.run(unit, lambda amount: None)


def test_a_clip_is_known_without_loading_it_again(tmp_path, monkeypatch):
    clip = tiny_clip(tmp_path / "clip")
    first = identify_clip(clip, tmp_path / "cache")
    assert (first.name, first.image_size, first.embed_dim, first.quick_gelu) == ("clip.json", 32, 64, True)
    with monkeypatch.context() as patch:
        patch.setattr("vadclip.clip.frozen.load_clip", lambda *_, **__: pytest.fail("loaded"))
        assert identify_clip(clip, tmp_path / "cache") == first
    # Other weights under the same name, another activation, a damaged memory: looked up anew.
    other = tiny_clip(tmp_path / "other")
    tiny_clip(tmp_path / "clip", seed=1)
    assert identify_clip(clip, tmp_path / "cache").fingerprint != first.fingerprint
    assert identify_clip(other, tmp_path / "cache").fingerprint == first.fingerprint
    gelu = other.model_copy(update={"quick_gelu": False})
    assert identify_clip(gelu, tmp_path / "cache").quick_gelu is False
    for path in (tmp_path / "cache" / "clip").iterdir():
        path.write_text("{")
    assert identify_clip(other, tmp_path / "cache") == first


def test_provenance_says_what_decides_a_row():
    identity = ClipIdentity("ViT-B-16-quickgelu", "f" * 64, True, 224, 512)
    one, mean = (Provenance.encoded(identity, "fp32", frames) for frames in (1, 16))
    assert one.fingerprint != mean.fingerprint
    assert one.recipe.startswith(
        "frame 8 of each 16; resize to 340x256 * S/224, bilinear, half-pixel centres"
    )
    assert one.recipe.endswith("not L2-normalised")
    assert mean.recipe.startswith("float32 mean of each 16 frames")
    assert Provenance.from_json(one.to_json()) == one


def test_no_space_is_one_line_and_with_space_it_completes(corpus, tmp_path):
    """Files may grow to 1 kB, which a unit's shard is over; then to 8 kB, which the merged one is over."""
    clip, manifest = tiny_clip(tmp_path / "clip"), manifest_of(corpus)
    identify_clip(clip, tmp_path / ".cache")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1_000, 8_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(InputError, match=r"features.* cannot be written: .*File too large"):
                extract_here(tmp_path, manifest, corpus, clip, extract_params(), unit_images=10)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _, runner = extract_here(tmp_path, manifest, corpus, clip, extract_params(), unit_images=10)
    assert runner.units == []  # only the merging was left
    extract_here(tmp_path / "quiet", manifest, corpus, clip, extract_params())
    assert contents(tmp_path / "features") == contents(tmp_path / "quiet" / "features")


FULL = """
import resource
from dataclasses import dataclass
from pathlib import Path
from vadclip.errors import InputError
from vadclip.extract.ledger import Ledger, scratch_faults
from vadclip.features.shards import Block

@dataclass
class Many:
    path, row_bytes = Path("shard-x.parquet"), 0
    blocks = [Block(f"v{number}" + 500 * "x", 0, 0, 1, 1, 16, "h") for number in range(20_000)]

resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))
try:
    with scratch_faults():
        Ledger().add(Many())
except InputError as error:
    print(error)
"""


def test_no_room_for_the_tables_is_one_line():
    said = python("-c", FULL).stdout
    assert said.startswith("the temporary folder cannot hold the stage's tables (")
    assert said.endswith("make room there, or name another folder in SQLITE_TMPDIR\n")
