import json
import re

import matplotlib.image
import numpy as np
import pytest
from manifest_helpers import CLASSES, make_manifest
from score_helpers import make_scores, make_video

from vadclip.config import EvaluateParams
from vadclip.evaluate.curves import TABLE_POINTS, branch_curves, pr_table, roc_table
from vadclip.evaluate.metrics import evaluate
from vadclip.evaluate.plots import class_name, shortened
from vadclip.evaluate.report import write_metrics, write_plots, write_report
from vadclip.evaluate.timelines import THUMBNAILS, choose
from vadclip.events import Peak
from vadclip.labels import XD_VIOLENCE, Classes


def _params(timelines=2):
    return EvaluateParams(bootstrap_resamples=20, bootstrap_seed=0, timelines=timelines)


def _evaluation(resamples=20, **settings):
    """Two Fire, one Theft, three normal videos of 8 snippets; f_good is found better than f_bad."""
    videos = [
        make_video("f_bad", 8, [(32, 64, "Fire")]),
        make_video("f_good", 8, [(32, 64, "Fire")]),
        make_video("n1", 8),
        make_video("n2 & <b>", 8),
        make_video("n3", 8),
        make_video("t$x$y^", 8, [(0, 48, "Theft")]),
    ]
    anomaly = {
        "f_bad": [0.9, 0.9, 0.2, 0.2, 0.8, 0.1, 0.1, 0.1],
        "f_good": [0.1, 0.1, 0.9, 0.8, 0.2, 0.1, 0.1, 0.1],
        "n1": [0.3] * 8,
        "n2 & <b>": [0.1] * 8,
        "n3": [0.1] * 7 + [0.9],
        "t$x$y^": [0.9, 0.9, 0.2] + [0.3] * 5,
    }
    manifest = make_manifest(videos)
    settings = {"normal_peaks": (Peak("v", 0.5, 1.0),), **settings}
    return evaluate(make_scores(anomaly, **settings), manifest, resamples=resamples, seed=0), manifest


def _write(folder, evaluation, manifest, timelines=2, root="videos"):
    written = write_plots(
        evaluation, manifest, folder / "plots", _params(timelines), root=str(root), decoder="pyav"
    )
    settings = {"params": {"train.seed": 234, "dataset.root": None}, "commit": "0123456789abcdef"}
    write_report(evaluation, written, folder / "plots", folder / "report.html", **settings)
    return written, (folder / "report.html").read_text()


def test_curve_tables_by_hand():
    # One snippet each: .9 positive, .6 negative, .4 positive, .1 negative; the same in both branches.
    videos = [make_video(name, 1, [(0, 16, "Fire")] if name in "ac" else ()) for name in "abcd"]
    scores = make_scores({"a": [0.9], "b": [0.6], "c": [0.4], "d": [0.1]})
    curves = branch_curves(evaluate(scores, make_manifest(videos), resamples=0, seed=0).test_set)
    roc, pr = roc_table(curves), pr_table(curves)
    assert len(roc) == TABLE_POINTS <= 1000
    rates = {row["false_positive_rate"]: row["classification"] for row in roc}
    # ROC: (0, .5), (.5, .5), (.5, 1), (1, 1); between them a straight line.
    assert (rates[0.2], rates[0.49], rates[0.6], rates[1.0]) == (0.5, 0.5, 1.0, 1.0)
    precision = {row["recall"]: row["classification"] for row in pr}
    # Up to recall 1/2 the first threshold does, precision 1; beyond it takes 3 videos, 2 of them right.
    assert (precision[0.1], precision[0.5], precision[0.502], precision[1.0]) == (1.0, 1.0, 0.66667, 0.66667)
    assert set(roc[0]) == {"false_positive_rate", "classification", "alignment", "zero_shot"}
    assert set(pr[0]) == {"recall", "classification", "alignment", "zero_shot"}


def test_all_files_are_written_and_equal_input_gives_equal_bytes(tmp_path):
    evaluation, manifest = _evaluation()
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "plots" / "timelines").mkdir(parents=True)
        (folder / "plots" / "timelines" / "of_an_earlier_run.png").write_bytes(b"")
        _write(folder, evaluation, manifest)
        write_metrics(evaluation, folder / "metrics.json", folder / "figures.json")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        "figures.json",
        "metrics.json",
        "report.html",
        *(f"plots/{name}.{kind}" for name in ("roc", "pr", "confusion") for kind in ("png", "json")),
        "plots/timelines/01_Fire_best.png",
        "plots/timelines/02_Normal_worst.png",
    }
    metrics = json.loads(contents[0]["metrics.json"])
    assert metrics == evaluation.metrics
    assert list(metrics) == sorted(metrics)
    confusion = json.loads(contents[0]["plots/confusion.json"])
    assert len(confusion) == 6
    assert confusion[2] == {"actual": "Normal", "predicted": evaluation.predicted_class_V[2]}


def test_timelines_take_turns_by_class_and_from_both_ends():
    evaluation, _ = _evaluation(resamples=0)
    chosen = [
        (evaluation.test_set.videos[choice.place].video_id, choice.standing)
        for choice in choose(evaluation, 9)
    ]
    # Fire by AUC within the video; normal by the highest score: n2 .1, n1 .3, n3 .9, its worst one first.
    assert chosen == [
        ("f_good", "best"),
        ("n3", "worst"),
        ("t$x$y^", "only one"),
        ("f_bad", "worst"),
        ("n2 & <b>", "best"),
        ("n1", "2nd worst"),
    ]
    assert [choice.place for choice in choose(evaluation, 2)] == [1, 4]
    assert choose(evaluation, 0) == []


def test_thumbnails_stand_above_the_curve_where_the_video_can_be_read(tmp_path):
    from video_helpers import numbered_frame, write_video

    evaluation, manifest = _evaluation(resamples=0)
    write_video(tmp_path / "f_good.mp4", [numbered_frame(number) for number in range(128)])
    written, html = _write(tmp_path, evaluation, manifest, root=tmp_path)
    with_video, without = (matplotlib.image.imread(path) for _, path in written.timelines)
    assert with_video.shape[1] == without.shape[1]
    assert with_video.shape[0] > without.shape[0] + 50
    assert written.without_thumbnails == 1
    assert "1 of the videos could not be read for thumbnails" in html
    assert THUMBNAILS == 9
    # Of imported features there are no videos to show, and nothing to complain about.
    imported = make_manifest(manifest.videos, source="official_features", dataset="ucf_crime")
    written, _ = _write(tmp_path, evaluation, imported, root=tmp_path)
    assert written.without_thumbnails == 0
    assert matplotlib.image.imread(written.timelines[0][1]).shape == without.shape


def test_a_timeline_shades_the_truth_and_draws_both_branches(tmp_path):
    half = np.tile([0.5, 0.25, 0.25], (8, 1))  # the alignment branch says .5 throughout
    names = ("f_bad", "f_good", "n1", "n2 & <b>", "n3", "t$x$y^")
    evaluation, manifest = _evaluation(resamples=0, probabilities=dict.fromkeys(names, half))
    written, _ = _write(tmp_path, evaluation, manifest)
    picture = matplotlib.image.imread(written.timelines[0][1])[..., :3]
    blue, orange = np.array([0, 0x72, 0xB2]) / 255, np.array([0xD5, 0x5E, 0x00]) / 255
    shade = 0.55 * np.array([0xF0, 0xC7, 0x5E]) / 255 + 0.45
    for colour in (blue, orange, shade):
        near = np.abs(picture - colour).max(axis=-1) < 0.02
        assert near.sum() > 200, colour
    # The span is 32 of 128 frames: a quarter of the axes, which take about nine tenths of the width.
    columns = (np.abs(picture[60:-90] - shade).max(axis=-1) < 0.02).any(axis=0).sum()
    assert 0.20 < columns / picture.shape[1] < 0.26


def test_the_report_holds_everything_in_one_file(tmp_path):
    evaluation, manifest = _evaluation()
    written, html = _write(tmp_path, evaluation, manifest, timelines=5)  # dollar signs and tags in the names
    assert html.count("data:image/png;base64,") == 3 + len(written.timelines)
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    # One unit: percent.
    assert f">{100 * evaluation.metrics['ano_auc']:.2f} [" in html
    low, high = evaluation.intervals["map_avg"]
    assert f"{evaluation.metrics['map_avg']:.2f} [{low:.2f}, {high:.2f}]" in html
    # The first table has the CLIP alone beside what was trained; the helper's CLIP knows nothing.
    gain = 100 * (evaluation.metrics["auc"] - 0.5)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html[: html.index("</table>")])
    assert cells[0] == "auc"
    assert cells[2].startswith("50.00 [")
    assert cells[3].startswith(f"{gain:+.2f} [")
    # The table of videos: f_good is Fire, a quarter of it, highest score .9, found first within it.
    row = html[html.index('<td class="id">f_good</td>') :].split("</tr>")[0]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)
    assert cells == ["f_good", "Fire", evaluation.predicted_class_V[1], "25.0", "0.900", "100.0", "1", ""]
    assert '<td>train.seed</td><td class="id">234</td>' in html
    assert "at commit 0123456789abcdef" in html
    for name in evaluation.all_figures.keys() - {
        "videos_excluded", "untimed_videos", "test_selected", "lost_frames"
    }:  # fmt: skip
        assert f"<td>{name}</td>" in html or name.startswith(("zero_shot", "gain")), name
    assert "Test-selected" not in html
    assert "Undefined" not in html
    assert "n2 &amp; &lt;b&gt;" in html
    assert "<b>" not in html


def test_the_report_says_what_a_reader_must_know(tmp_path):
    videos = [
        make_video("a", 2, [(0, 32, "Fire")], untimed=True),
        make_video("n", 2),
        make_video("tiny", 0, num_frames=9),
    ]
    manifest = make_manifest(videos)
    scores = make_scores(
        {"a": [0.9, 0.8], "n": [0.1, 0.2]},
        test_selected=True,
        excluded={"tiny": "too <short>"},
        lost_frames={"n": 7, "of_val": 3},
    )
    evaluation = evaluate(scores, manifest, resamples=0, seed=0)
    _, html = _write(tmp_path, evaluation, manifest)
    assert "Test-selected." in html
    assert "they compare with the paper's, and say nothing about new videos" in html
    assert '<td>auc_Theft</td><td class="text">no positive frame in the test videos</td>' in html
    assert '<td>ano_auc</td><td class="text">no negative frame in the test videos</td>' in html
    assert "Test videos without scores (1)" in html
    assert '<td>tiny</td><td class="text">too &lt;short&gt;</td>' in html
    assert "Untimed test videos (1)" in html
    assert "Lost frames (7 in 1 test videos)" in html
    assert "n (7)" in html
    assert "from a bootstrap" not in html, "no intervals were asked for"


def test_undefined_curves_leave_empty_tables_and_a_picture_that_says_why(tmp_path):
    manifest = make_manifest([make_video("n", 3, fps=0.0)])
    evaluation = evaluate(make_scores({"n": [0.1, 0.5, 0.2]}), manifest, resamples=10, seed=0)
    _write(tmp_path, evaluation, manifest)
    assert json.loads((tmp_path / "plots" / "roc.json").read_text()) == []
    assert json.loads((tmp_path / "plots" / "pr.json").read_text()) == []
    picture = matplotlib.image.imread(tmp_path / "plots" / "roc.png")[..., :3]
    height, width, _ = picture.shape
    middle = picture[height * 4 // 10 : height * 6 // 10, width // 4 : width * 3 // 4]
    assert (middle.max(axis=-1) < 0.5).sum() > 100, "there should be words in the middle"


@pytest.mark.parametrize(
    ("classes", "label", "name"),
    [
        (XD_VIOLENCE, "B4", "B4 (riot)"),
        (
            Classes(("Normal", "RoadAccidents"), ("normal", "roadAccidents")),
            "RoadAccidents",
            "Road Accidents",
        ),
        (Classes(("Normal", "road_accident"), ("normal", "road accident")), "road_accident", "road accident"),
        (CLASSES, "Fire", "Fire"),
    ],
)
def test_class_names_for_people(classes, label, name):
    assert class_name(classes, label) == name


def test_long_names_lose_their_middle():
    assert shortened("a" * 50 + "b" * 50, 21) == "a" * 10 + "…" + "b" * 10
    assert shortened("short", 21) == "short"
