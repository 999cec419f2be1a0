import json
import subprocess
import sys
from dataclasses import replace

import mlflow
import numpy as np
import pytest
from manifest_helpers import make_manifest
from score_helpers import make_scores, make_video
from sklearn.metrics import average_precision_score, roc_auc_score

from vadclip.compare.comparison import Side, compare
from vadclip.compare.sides import read_sides
from vadclip.errors import InputError
from vadclip.evaluate.metrics import collect
from vadclip.manifest import write_manifest
from vadclip.score.scores import scores_table, write_scores


def _manifest(videos=24, rows=4):
    """Every other video shows a fire in its second quarter, of these every third one a theft."""
    found = []
    for number in range(videos):
        label = None if number % 2 else ("Theft" if number % 3 == 0 else "Fire")
        found.append(make_video(f"v{number:03d}", rows, [(16, 32, label)] if label else []))
    return make_manifest(found)


def _scores(manifest, quality, seed, **settings):
    """Noise, and `quality` more where the truth is anomalous."""
    rng = np.random.default_rng(seed)
    anomaly = {}
    for video in manifest.videos:
        score = rng.normal(0, 1, video.num_snippets)
        score[1] += quality if video.frame_spans else 0
        anomaly[video.video_id] = 1 / (1 + np.exp(-score))
    return make_scores(anomaly, **settings)


def _side(manifest, *scores, name="A"):
    return Side(name, manifest, tuple(collect(one, manifest) for one in scores))


def _frames(manifest, scores, videos):
    """Truth and score of every frame of these videos, one after the other."""
    truth, score = [], []
    for at in videos:
        video = manifest.videos[at]
        own = np.zeros(video.num_frames, dtype=bool)
        for start, end in video.frame_spans:
            own[start:end] = True
        truth.append(own)
        score.append(np.repeat(scores.anomaly_score_N[scores.rows(at)], 16))
    return np.concatenate(truth), np.concatenate(score)


@pytest.mark.parametrize(("name", "metric"), [("auc", roc_auc_score), ("ap", average_precision_score)])
def test_interval_and_p_are_a_straightforward_bootstraps_and_permutations(name, metric):
    manifest = _manifest()
    a, b = _scores(manifest, 0.5, 1), _scores(manifest, 1.5, 2)
    draws = 40
    found = compare([_side(manifest, a), _side(manifest, b, name="B")], draws=draws, seed=3)
    rng, count = np.random.default_rng(3), len(manifest.videos)  # the same draws of videos, then of swaps
    everyone = np.arange(count)
    values, differences, swapped = [], [], []
    for counts_V in rng.multinomial(count, np.full(count, 1 / count), size=draws):
        drawn = np.repeat(everyone, counts_V)
        values.append(metric(*_frames(manifest, a, drawn)))
        differences.append(metric(*_frames(manifest, b, drawn)) - values[-1])
    for swap_V in rng.random((draws, count)) < 0.5:
        swap_N = np.repeat(swap_V, a.rows_V)
        one = replace(a, anomaly_score_N=np.where(swap_N, b.anomaly_score_N, a.anomaly_score_N))
        other = replace(a, anomaly_score_N=np.where(swap_N, a.anomaly_score_N, b.anomaly_score_N))
        of_one, of_other = (metric(*_frames(manifest, scores, everyone)) for scores in (one, other))
        swapped.append(abs(of_other - of_one))
    before, after = (metric(*_frames(manifest, scores, everyone)) for scores in (a, b))
    difference, value = found.against[0].differences[name], found.sides["A"][name]
    assert (value.value, difference.value) == pytest.approx((before, after - before), abs=1e-12)
    assert (value.low, value.high) == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-9)
    expected = np.percentile(differences, [2.5, 97.5])
    assert (difference.low, difference.high) == pytest.approx(expected, abs=1e-9)
    assert difference.p == (1 + np.sum(np.array(swapped) >= abs(after - before) - 1e-12)) / (1 + draws)


def test_a_better_model_a_worse_one_and_one_that_cannot_be_told():
    manifest = _manifest(60)
    base = _side(manifest, _scores(manifest, 1.0, 1), name="base")
    sides = [
        _side(manifest, _scores(manifest, quality, seed), name=name)
        for name, quality, seed in (("good", 4.0, 2), ("bad", -2.0, 3), ("alike", 1.0, 4))
    ]
    good, bad, alike = compare([base, *sides]).against
    assert good.sentence.startswith("good is better than base: auc ")
    assert good.sentence.endswith(", 60 test videos.")
    assert bad.sentence.startswith("bad is worse than base: auc ")
    assert "alike and base cannot be told apart from 60 test videos: auc" in alike.sentence
    # (1.96 + 0.84)^2 = 7.84 variances over the squared difference, for 60 videos; the sd from the interval.
    found = alike.differences["auc"]
    sd = (found.high - found.low) / (2 * 1.96)
    assert found.videos_needed == pytest.approx(60 * 7.84 * (sd / found.value) ** 2, rel=0.15)
    assert found.low < 0 < found.high
    # A side against itself: no difference, all permutations are as far, nothing moved.
    same = compare([base, replace(base, name="again")]).against[0]
    assert (same.differences["auc"].value, same.differences["auc"].p) == (0, 1)
    assert same.moved == ()
    assert "No number of videos" in same.sentence


def test_runs_of_a_group_count_as_one_and_widen_its_interval():
    manifest = _manifest(40)
    runs = [_scores(manifest, quality, 5) for quality in (0.2, 1.0, 3.0)]  # one noise: only the seeds differ
    single = [compare([_side(manifest, run), _side(manifest, runs[0], name="B")]) for run in runs]
    once = [found.sides["A"]["auc"] for found in single]
    found = compare([_side(manifest, *runs, name="group"), _side(manifest, runs[1], name="one")])
    group = found.sides["group"]["auc"]
    assert found.runs == {"group": 3, "one": 1}
    assert group.value == pytest.approx(np.mean([value.value for value in once]), abs=1e-12)
    assert group.sd == pytest.approx(np.std([value.value for value in once], ddof=1), abs=1e-12)
    # Variances add up: of the videos, as the middle run has it, and of three seeds' mean.
    width = once[1].high - once[1].low
    expected = np.hypot(width, 2 * 1.96 * group.sd / np.sqrt(3))
    assert group.high - group.low == pytest.approx(expected, rel=0.15)
    assert group.high - group.low > 1.2 * width
    assert found.notes == (
        "one run each: one; how much another seed would change is not in their intervals",
        "the values of group are means over the runs",
    )


def test_videos_that_moved_by_hand():
    # Pairs of a positive and a negative frame of snippets; positives a1 .6 and b1 .4, negatives a0 .5,
    # b0 .1, n0 .5, n1 .2. Before: a1 beats all 4; b1 beats b0 and n1. After, n0 is .9: a1 beats 3.
    # Pairs with n: a1 and b1 against n0 and n1; before 3 of 4 in order, after 2. Pairs with a: a1's 4, and b1
    # against a0; before 4 of 5, after 3. Pairs with b: b1's 4, and a1 against b0; before and after 3 of 5.
    videos = [
        make_video("a", 2, [(16, 32, "Fire")]),
        make_video("b", 2, [(16, 32, "Fire")]),
        make_video("n", 2),
    ]
    manifest = make_manifest(videos)
    before = make_scores({"a": [0.5, 0.6], "b": [0.1, 0.4], "n": [0.5, 0.2]})
    after = make_scores({"a": [0.5, 0.6], "b": [0.1, 0.4], "n": [0.9, 0.2]})
    moved = compare([_side(manifest, before), _side(manifest, after, name="B")]).against[0].moved
    assert [video.video_id for video in moved] == ["n", "a"]  # by a quarter, and by a fifth
    assert {v.video_id: (v.before, v.after) for v in moved} == {
        "n": (pytest.approx(3 / 4), pytest.approx(2 / 4)),
        "a": (pytest.approx(4 / 5), pytest.approx(3 / 5)),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content_hash": "1"}, "A and B were tested on other contents of v000: only equal test sets"),
        ({"segments": ()}, "were tested on other truths of v000"),
        ({"video_id": "w"}, "A and B were not tested on the same videos: v000 and 1 more only on one side"),
        ({"num_frames": 80}, "were tested on other numbers of snippets of v000"),
    ],
)
def test_only_equal_test_sets_are_compared(change, message):
    manifest = _manifest()
    other = make_manifest([replace(manifest.videos[0], **change), *manifest.videos[1:]])
    with pytest.raises(InputError, match=message):
        compare([_side(manifest, _scores(manifest, 1, 1)), _side(other, _scores(other, 1, 1), name="B")])


def _write_run(folder, manifest, scores):
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest, folder / "manifest.parquet")
    write_scores(scores_table(scores), folder / "scores.parquet")


def test_the_command_compares_folders_groups_and_the_clip_alone(tmp_path, monkeypatch, command, capsys):
    monkeypatch.chdir(tmp_path)
    manifest = _manifest()
    for name, quality in (("a1", 1.0), ("a2", 1.2), ("b <i>", 3.0)):
        _write_run(tmp_path / name, manifest, _scores(manifest, quality, len(name)))
    sides = ("a1,a2", "b <i>", "zero-shot:a1")
    monkeypatch.setenv("COLUMNS", "160")
    assert command("compare", *sides, "--json", "c.json", "--html", "c.html") == 0
    printed = capsys.readouterr().out
    assert "b <i> is better than a1 and 1 more: auc " in printed
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["runs"] == {"a1 and 1 more": 2, "b <i>": 1, "zero-shot:a1": 1}
    assert content["videos"] == 24
    # The helper's CLIP says 1/3 everywhere: chance.
    assert content["sides"]["zero-shot:a1"]["auc"]["value"] == 0.5
    assert f"{content['sides']['b <i>']['map_avg']['value']:.1f}" in printed
    html = (tmp_path / "c.html").read_text()
    assert "b &lt;i&gt; is better than a1 and 1 more" in html
    assert "<i>" not in html
    assert command("compare", "a1", "none") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: 'none' is neither a folder, nor a models:/ address, a run id")
    assert len(said.splitlines()) == 1


def test_names_that_stand_for_nothing_to_compare(tmp_path):
    manifest = _manifest()
    _write_run(tmp_path / "a", manifest, _scores(manifest, 1, 1))
    (tmp_path / "empty").mkdir()
    for names, message in (
        ((f"{tmp_path}/a",), "takes two sides or more"),
        (
            (f"{tmp_path}/a", f"{tmp_path}/empty"),
            "empty has no manifest.parquet; the stages ingest and score",
        ),
        ((f"{tmp_path}/a", "zero-shot:"), "'zero-shot:' names nothing"),
    ):
        with pytest.raises(InputError, match=message):
            read_sides(names, tmp_path / "scratch")


def test_a_git_revision_is_read_from_the_dvc_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{variable}_NAME", "t")
        monkeypatch.setenv(f"{variable}_EMAIL", "t@example.invalid")
    manifest, old, new = _manifest(), _scores(_manifest(), 0.5, 1), _scores(_manifest(), 2.0, 2)
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"]):
        subprocess.run(command, check=True)
    _write_run(tmp_path, manifest, old)
    subprocess.run([*dvc, "add", "-q", "manifest.parquet", "scores.parquet"], check=True)
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "old"], ["git", "tag", "old"]):
        subprocess.run(command, check=True)
    _write_run(tmp_path, manifest, new)
    before, after = read_sides(["old", "."], tmp_path / "scratch")
    np.testing.assert_array_equal(before.runs[0].scores.main_score_N, old.anomaly_score_N)
    np.testing.assert_array_equal(after.runs[0].scores.main_score_N, new.anomaly_score_N)
    assert before.name == "old"
    subprocess.run(["rm", "-r", ".dvc/cache"], check=True)
    with pytest.raises(InputError, match=r"old: the DVC cache does not have .* with `dvc pull`"):
        read_sides(["old", "."], tmp_path / "again")


def test_runs_and_registered_models_are_read_from_mlflow_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    manifest, ids = _manifest(), []
    for number in range(3):
        _write_run(tmp_path / str(number), manifest, _scores(manifest, number, number))
        run = client.create_run(experiment, run_name=f"lr{number}")
        ids.append(run.info.run_id)
        for file in ("manifest.parquet", "scores.parquet")[: 1 if number == 2 else 2]:
            client.log_artifact(ids[-1], str(tmp_path / str(number) / file))
    client.create_registered_model("vadclip-toy")
    client.create_model_version("vadclip-toy", (tmp_path / "artifacts").as_uri(), run_id=ids[1])
    client.set_registered_model_alias("vadclip-toy", "champion", "1")
    for address in ("models:/vadclip-toy@champion", "models:/vadclip-toy/1", "models:/vadclip-toy/latest"):
        one, other = read_sides([ids[0], address], tmp_path / address.replace("/", "_"))
        assert (one.name, other.name) == ("lr0", address)
        expected = _scores(manifest, 1, 1).anomaly_score_N
        np.testing.assert_array_equal(other.runs[0].scores.main_score_N, expected)
    with pytest.raises(InputError, match=rf"{ids[2]}: its run keeps no scores.parquet"):
        read_sides([ids[0], ids[2]], tmp_path / "s2")
    with pytest.raises(InputError, match=r"models:/absent/3: sqlite:.* does not give its scores"):
        read_sides([ids[0], "models:/absent/3"], tmp_path / "s3")


@pytest.mark.soak
def test_of_two_models_of_exchangeable_noise_p_is_uniform():
    from scipy.stats import kstest

    manifest = _manifest(20)
    ps = []
    for seed in range(400):
        sides = [
            _side(manifest, _scores(manifest, 1.0, 2 * seed + at), name=name) for at, name in enumerate("AB")
        ]
        differences = compare(sides, draws=500, seed=seed).against[0].differences
        ps.append([differences[name].p for name in ("auc", "ap")])
    for name, found in zip(("auc", "ap"), np.transpose(ps), strict=True):
        assert kstest(found, "uniform").pvalue > 0.01, name
