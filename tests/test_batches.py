import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from training_helpers import CLASSES, CPU, Features, params, toy, video

from vadclip.errors import InputError
from vadclip.model.inference import split_chunks
from vadclip.train.batches import (
    anomalous_rows,
    epoch_batches,
    load_rows,
    pool,
    sequence_rows,
)

SIX_NORMAL_NINE_NOT = np.array([False] * 6 + [True] * 9)


def _load(tmp_path, features, videos, crops=1, length=4, readers=0):
    return load_rows(
        features, videos, CLASSES, crops=crops, length=length, scratch=tmp_path / "cache", readers=readers
    )


def test_golden_sampling_of_training_and_test_videos(golden_folder):
    golden = load_file(golden_folder / "sampling_golden.safetensors")
    sizes = [int(name.removeprefix("in_")) for name in golden if name.startswith("in_")]
    assert len(sizes) == 9
    for n in sizes:
        rows_ND, train_TD, test_CTD = golden[f"in_{n}"], golden[f"train_{n}"], golden[f"test_{n}"]
        length = len(train_TD)
        sampled = sequence_rows(rows_ND, length)
        assert len(sampled) == min(n, length)
        np.testing.assert_array_equal(sampled, train_TD[: len(sampled)])
        assert not train_TD[len(sampled) :].any()

        chunks_CTD, lengths_C = split_chunks(rows_ND, length)
        # Where n is a multiple of the length the official split has one more chunk, all padding. It calls it
        # full, but its scores lie beyond the video's n snippets and are cut off: here it is not made.
        surplus = n % length == 0
        assert len(chunks_CTD) == len(test_CTD) - surplus
        np.testing.assert_array_equal(chunks_CTD, test_CTD[: len(chunks_CTD)])
        np.testing.assert_array_equal(lengths_C, golden[f"test_lengths_{n}"][: len(chunks_CTD)])
        assert not surplus or not test_CTD[-1].any()
        assert lengths_C.sum() == n


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("n", [5, 33, 700, 9001])
def test_pooling_rounds_as_a_mean_per_bin_does_bit_for_bit(n, dtype):
    rows_ND = (np.random.default_rng(n).standard_normal((n, 24)) * 3 + 1).astype(dtype)
    edges = np.linspace(0, n, 33).astype(int)
    expected = [
        rows_ND[start:end].mean(axis=0) if end > start else rows_ND[start] for start, end in pairwise(edges)
    ]
    pooled = pool(rows_ND, 32)
    assert pooled.dtype == dtype
    np.testing.assert_array_equal(pooled, np.stack(expected))


def test_pooling_by_hand():
    # 5 rows to 2 bins: edges 0, 2.5 -> 2, 5. To 8: edges 0 0 1 1 2 3 3 4 5, empty bins take their left row.
    rows_ND = np.array([[0], [2], [4], [8], [9]], np.float32)
    np.testing.assert_array_equal(pool(rows_ND, 2)[:, 0], [1, 7])
    np.testing.assert_array_equal(pool(rows_ND, 8)[:, 0], [0, 0, 2, 2, 4, 8, 8, 9])


def test_paired_batches_hold_both_kinds_are_whole_and_stop_with_the_smaller_side():
    batches = epoch_batches(SIX_NORMAL_NINE_NOT, params(batch_size=2), epoch=0)
    assert [len(rows) for rows in batches] == [
        4,
        4,
        4,
    ]  # 6 // 2 = 3 steps; 9 // 2 = 4 would be left without normal
    for rows in batches:
        assert SIX_NORMAL_NINE_NOT[rows].tolist() == [False, False, True, True]
    every = np.concatenate(batches)
    assert len(set(every)) == len(every)
    # 4 fits once into 6 and twice into 9: the incomplete rest is dropped.
    assert [len(rows) for rows in epoch_batches(SIX_NORMAL_NINE_NOT, params(batch_size=4), epoch=0)] == [8]


def test_single_batches_hold_every_row_once_and_keep_the_rest():
    batches = epoch_batches(SIX_NORMAL_NINE_NOT, params(batch_scheme="single", batch_size=4), epoch=0)
    assert [len(rows) for rows in batches] == [4, 4, 4, 3]
    assert sorted(np.concatenate(batches)) == list(range(15))
    whole = epoch_batches(SIX_NORMAL_NINE_NOT, params(batch_scheme="single", batch_size=5), epoch=0)
    assert [len(rows) for rows in whole] == [5, 5, 5]


@pytest.mark.parametrize("scheme", ["paired", "single"])
def test_the_order_depends_on_seed_and_epoch_only(scheme):
    def order(seed, epoch):
        settings = params(batch_scheme=scheme, batch_size=3, seed=seed)
        return np.concatenate(epoch_batches(SIX_NORMAL_NINE_NOT, settings, epoch)).tolist()

    first = order(1, 0)
    np.random.default_rng(0).random(10)
    torch.rand(10)
    assert order(1, 0) == first
    assert order(1, 1) != first
    assert order(2, 0) != first
    assert order(1, 0) != order(0, 1)


@pytest.mark.parametrize(
    ("normal", "anomalous", "message"),
    [
        (
            3,
            9,
            r"batch_size is 4 and there are 3 rows of normal training videos.*to 3 or less, or train.batch",
        ),
        (9, 2, r"2 rows of anomalous training videos.*set train.batch_size to 2 or less"),
        (9, 0, r"0 rows of anomalous.*add such videos, or set train.batch_scheme: single"),
    ],
)
def test_too_few_rows_for_one_paired_batch_is_an_error(normal, anomalous, message):
    with pytest.raises(InputError, match=message):
        epoch_batches(np.array([False] * normal + [True] * anomalous), params(batch_size=4), 0)


def test_no_row_at_all_is_an_error():
    with pytest.raises(InputError, match="no training video has features"):
        epoch_batches(np.array([], dtype=bool), params(batch_scheme="single"), 0)


def test_every_crop_is_a_row_of_its_own(tmp_path):
    videos = (video("a", "Normal", rows=3), video("b", "Fighting", "Fire", rows=9))
    arrays = {
        (made.video_id, crop): np.full((made.num_snippets, 2), 10 * number + crop, np.float16)
        for number, made in enumerate(videos)
        for crop in range(5)
    }
    rows = _load(tmp_path, Features(arrays), videos, crops=5)
    assert rows.video_ids == ("a",) * 5 + ("b",) * 5
    assert anomalous_rows(videos, CLASSES, 5).tolist() == [False] * 5 + [True] * 5
    batch = rows.batch(np.array([4, 0, 7])).to(CPU)
    assert batch.video_ids == ("a", "a", "b")
    assert batch.lengths_B.tolist() == [3, 3, 4]
    assert batch.labels_BK.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    # Zero after the third of three snippets; nine are pooled to four.
    assert batch.visual_BTD[..., 0].tolist() == [[4, 4, 4, 0], [0, 0, 0, 0], [12, 12, 12, 12]]
    assert (batch.visual_BTD.dtype, batch.labels_BK.dtype) == (torch.float32, torch.float32)


def test_batches_arrive_in_order_and_equal_those_made_one_by_one(tmp_path):
    features, videos, _ = toy()
    rows = _load(tmp_path, features, videos, crops=2, readers=3)
    alone = _load(tmp_path, features, videos, crops=2)
    order = epoch_batches(anomalous_rows(videos, CLASSES, 2), params(), epoch=3)
    arrived = list(rows.batches(order, CPU))
    assert len(arrived) == len(order) == 3
    for batch, rows_B in zip(arrived, order, strict=True):
        expected = alone.batch(rows_B).to(CPU)
        assert batch.video_ids == expected.video_ids
        assert torch.equal(batch.visual_BTD, expected.visual_BTD)
        assert torch.equal(batch.lengths_B, expected.lengths_B)


def test_pooled_rows_leave_no_file_behind(tmp_path):
    features, videos, _ = toy()
    rows = _load(tmp_path, features, videos)
    assert os.listdir(tmp_path / "cache") == []  # nothing a kill could leave, though the rows are in use
    assert rows.batch(np.array([0])).video_ids == (videos[0].video_id,)
