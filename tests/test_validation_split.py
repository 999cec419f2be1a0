"""Which training videos validate."""

import csv
import random
from collections import Counter

from manifest_helpers import make_video

from vadclip.ingest.validation_split import carve_validation


def _video(video_id, *labels, source=None, frames=160, split="train"):
    return make_video(video_id, frames, split, labels=labels, source_id=source or video_id)


def test_validation_is_stratified_by_label_set():
    videos = [_video(f"n{i}", "Normal") for i in range(40)] + [_video(f"f{i}", "Fire") for i in range(10)]
    videos += [_video(f"b{i}", "Fire", "Theft") for i in range(4)] + [
        _video(f"c{i}", "Theft", "Fire") for i in range(2)
    ]
    videos += [_video(f"t{i}", "Theft") for i in range(2)]
    videos += [_video(f"x{i}", "Normal", split="test") for i in range(50)]
    videos += [_video(f"s{i}", "Normal", frames=15) for i in range(50)]  # too short to count
    taken = carve_validation(videos, 0.2, 0)
    # 0.2 of 40, of 10 and of 6 (the order of labels is nothing) round to 8, 2 and 1; of 2 to 0.
    kinds = Counter({"b": "fire and theft", "c": "fire and theft"}.get(name[0], name[0]) for name in taken)
    assert kinds == {"n": 8, "f": 2, "fire and theft": 1}


def test_validation_is_seeded_and_stays_when_other_videos_come_or_go():
    videos = [_video(f"n{i}", "Normal") for i in range(200)]
    taken = carve_validation(videos, 0.1, 7)
    shuffled = random.Random(0).sample(videos, len(videos))
    assert carve_validation(shuffled, 0.1, 7) == taken
    assert carve_validation(videos, 0.1, 8) != taken
    assert len(taken & carve_validation(videos[:-1], 0.1, 7)) >= len(taken) - 1
    assert carve_validation(videos, 0.0, 7) == frozenset()


def test_sources_stay_together_and_one_video_of_a_kind_stays_in_train():
    videos = [_video(f"v{i}", "Normal", source=f"film{i // 3}") for i in range(60)]
    videos += [_video(f"big{i}", "Normal", source="big") for i in range(30)]
    videos += [_video("only", "Fire", source="film0")]
    for seed in range(5):
        taken = carve_validation(videos, 0.2, seed)
        assert len(taken) == 18  # 0.2 of 90, six whole films of three
        by_film = Counter(video.source_id for video in videos if video.video_id in taken)
        assert set(by_film.values()) == {3}
        assert not by_film.keys() & {"big", "film0"}  # too large; holds the only fire
    everything = carve_validation([_video("a", "Fire"), _video("b", "Fire"), _video("c", "Normal")], 0.99, 0)
    assert len(everything) == 1  # one of two fires; the only normal stays


def test_xd_validation_covers_the_classes_in_spite_of_its_films(shared_folder, tmp_path):
    lists = shared_folder / "data" / "annotations" / "vadclip_official" / "list"
    with open(lists / "xd_CLIP_rgb.csv") as file:
        names = {
            row["path"].rsplit("/", 1)[-1].rsplit("__", 1)[0]: row["label"] for row in csv.DictReader(file)
        }
    videos = [
        _video(name, *(part for part in label.split("-") if part != "0"), source=name.split("__#")[0])
        for name, label in names.items()
    ]
    taken = carve_validation(videos, 0.1, 0)
    assert 0.085 < len(taken) / len(videos) <= 0.1
    chosen = [video for video in videos if video.video_id in taken]
    rest = [video for video in videos if video.video_id not in taken]
    assert not {video.source_id for video in chosen} & {video.source_id for video in rest}
    counts = Counter(label for video in chosen for label in video.labels)
    assert counts["A"] == 205
    assert min(counts[label] for label in ("B1", "B2", "B4", "B6", "G")) >= 15
