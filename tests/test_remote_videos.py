"""Videos and features in a bucket, end to end: the rows are those of local files."""

import hashlib
import sys

import numpy as np
import pytest
from bucket_helpers import make_folder, objects, put, upload
from conftest import python
from extract_helpers import extract_here, extract_params, tiny_clip
from feature_helpers import all_rows, index_rows
from ingest_helpers import table_params
from params_helpers import write_params
from video_helpers import write_video

import vadclip.ingest.probing
from vadclip.config import IngestParams, load_params
from vadclip.datasets.official_lists import _list_files
from vadclip.errors import InputError
from vadclip.features.index import read_index
from vadclip.ingest.processes import run_supervised
from vadclip.ingest.remote_files import identify_remote
from vadclip.ingest.rows import ingest
from vadclip.manifest import locate, read_manifest
from vadclip.remote import download, open_filesystem, remote_size, stamp

SPLIT = IngestParams(val_fraction=0, seed=0)
ROWS = [
    "a.mp4,Fire,test,4-20",
    "sub/b#1=c.d.mp4,Normal,train,",
    "c.mkv,Normal,train,",
    "text.mp4,Normal,train,",
    "missing.mp4,Normal,train,",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_video(folder / "a.mp4", 67)
    write_video(folder / "sub" / "b#1=c.d.mp4", 40, size=(128, 96), gop=7)
    write_video(folder / "c.mkv", 200, gop=25)
    (folder / "text.mp4").write_text("not a video at all\n" * 20)
    return folder


@pytest.fixture(scope="module")
def manifest(corpus, tmp_path_factory):
    """Of the local files."""
    return look(str(corpus), tmp_path_factory.mktemp("manifest"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VADCLIP_CACHE", str(tmp_path / "node"))
    return tmp_path / "node" / "videos"


def look(root, folder, rows=ROWS):
    folder.mkdir(exist_ok=True)
    return ingest(table_params(root, rows, folder), SPLIT, probe_cache=folder / "probe.parquet").manifest


def test_the_rows_are_those_of_local_files(bucket, corpus, manifest, tmp_path, cache):
    upload(corpus, f"{bucket}/set")
    assert {video.video_id: video.probe_error for video in manifest.videos if video.probe_error} == {
        "missing": "there is no such file",
        "text": "FFmpeg cannot read it as a video (invalid data found when processing input)",
    }
    clip = tiny_clip(tmp_path / "clip")
    extract_here(tmp_path / "here", manifest, corpus, clip, extract_params())
    there = tmp_path / "there"
    _, runner = extract_here(there, manifest, f"{bucket}/set", clip, extract_params(), unit_images=20)
    # The twelve snippets of c.mkv make six slices; each video is fetched once.
    assert sum(part.video_id == "c" for unit in runner.units for part in unit.slices) == 6
    assert len(list(cache.glob("*.video"))) == 3
    assert all_rows(there, manifest) == all_rows(tmp_path / "here", manifest)
    index = [read_index(tmp_path / name / "features")[0] for name in ("here", "there")]
    assert [(row.status, row.error, row.rows) for row in index[0]] == [
        (row.status, row.error, row.rows) for row in index[1]
    ]


def test_only_new_and_changed_objects_are_downloaded(bucket, corpus, manifest, tmp_path, monkeypatch):
    upload(corpus, f"{bucket}/set")
    opened = []
    asked = []

    def recording(function, items, limits, workers):
        opened.extend(item.rsplit("/", 1)[-1] for item in items)
        return run_supervised(function, items, limits, workers)

    monkeypatch.setattr(vadclip.ingest.probing, "run_supervised", recording)
    filesystem = open_filesystem(bucket)[0]
    real = filesystem.ls
    monkeypatch.setattr(filesystem, "info", lambda path: pytest.fail(f"{path} was asked for by itself"))
    monkeypatch.setattr(filesystem, "ls", lambda path, **more: asked.append(path) or real(path, **more))
    assert look(f"{bucket}/set/", tmp_path) == manifest  # which does not say where the videos are
    assert sorted(opened) == ["a.mp4", "b#1=c.d.mp4", "c.mkv", "text.mp4"]
    assert len(asked) == 2  # a listing a folder
    opened.clear()
    assert look(f"{bucket}/set", tmp_path) == manifest
    assert opened == []
    put(f"{bucket}/set/text.mp4", write_video(tmp_path / "new.mp4", 30).read_bytes())
    assert {video.video_id: video.num_frames for video in look(f"{bucket}/set", tmp_path).videos}[
        "text"
    ] == 30
    assert opened == ["text.mp4"]


def test_an_object_that_changed_after_ingest_is_no_lasting_fault(bucket, corpus, manifest, tmp_path):
    upload(corpus, f"{bucket}/set")
    clip, params = tiny_clip(tmp_path / "clip"), extract_params(train_crops=1)
    good = objects(f"{bucket}/set")["a.mp4"]
    put(f"{bucket}/set/a.mp4", good[:-100])
    extract_here(tmp_path, manifest, f"{bucket}/set", clip, params)
    rows = {row.video_id: row for row in index_rows(tmp_path)}
    assert rows["a"].error == (
        "what was fetched is not what ingest saw: it changed since, or the transfer was cut; run the ingest "
        "stage again"
    )
    put(f"{bucket}/set/a.mp4", good)
    _, runner = extract_here(tmp_path, manifest, f"{bucket}/set", clip, params)
    assert [part.video_id for unit in runner.units for part in unit.slices] == ["a"]
    assert {row.video_id: row.rows for row in index_rows(tmp_path)}["a"] == 4


def test_a_video_larger_than_the_cache_is_extracted_all_the_same(bucket, corpus, manifest, tmp_path, cache):
    upload(corpus, f"{bucket}/set")
    clip, params = tiny_clip(tmp_path / "clip"), extract_params(train_crops=1)
    extract_here(tmp_path, manifest, f"{bucket}/set", clip, params, unit_images=5, video_cache_gib=1e-8)
    assert [row.rows for row in index_rows(tmp_path) if row.status == "ok"] == [4, 12, 2]
    assert len(list(cache.glob("*.video"))) == 1  # the one that was read last


def test_a_name_may_hold_what_addresses_quote_and_a_folder_may_be_an_object(bucket, tmp_path):
    """As consoles make folders: an empty object with the folder's name; `v#12` is no generation of `v`."""
    names = ["v", "v#12", "v?generation=12", "a b+c", "été", "50%25 {x}", "v#1=2.mp4"]
    for folder in ("set", "set/sub"):
        make_folder(f"{bucket}/{folder}")
        for name in names:
            put(f"{bucket}/{folder}/{name}", f"{folder} {name}".encode())
    paths = [f"{bucket}/{folder}/{name}" for folder in ("set", "set/sub") for name in names]
    missing = [f"{bucket}/set/50% {{x}}", f"{bucket}/set/v#13", f"{bucket}/nothing/v"]
    found = identify_remote([*paths, *missing, f"{bucket}/set/sub"])
    assert [type(found[path]) for path in missing] == [FileNotFoundError] * 3
    assert isinstance(found[f"{bucket}/set/sub"], IsADirectoryError)
    for path in paths:
        content = path.removeprefix(f"{bucket}/").replace("/", " ").replace("set sub", "set/sub").encode()
        assert found[path].size == remote_size(path) == len(content)
        assert download(path, tmp_path / "copy") == hashlib.sha256(content).hexdigest()
        # A listing and the object itself have the same stamp.
        filesystem, inner = open_filesystem(path)
        assert stamp(filesystem.info(inner)) == found[path].stamp != ""
    assert len({found[path].stamp for path in paths}) == len(paths)
    assert sorted(_list_files(f"{bucket}/set")) == sorted([*names, *(f"sub/{name}" for name in names)])


def test_files_of_more_than_one_request_arrive_whole(bucket, tmp_path):
    data = np.random.default_rng(0).bytes(17 * 2**20 + 5)
    (tmp_path / "big").write_bytes(data)
    upload(tmp_path, f"{bucket}/set")
    assert download(f"{bucket}/set/big", tmp_path / "copy") == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://bucket/set/../../other/x.mp4", "the path leaves the root"),
        ("s3://other/set/../x.mp4", "must not hold '..'"),
        ("s3://me:secret@bucket/x.mp4", "must not hold a name or password"),
        ("../x.mp4", "the path leaves the root"),
        ("sub/../../x.mp4", "the path leaves the root"),
    ],
)
def test_addresses_that_climb_or_hold_credentials_are_bad_rows(path, message, tmp_path):
    with pytest.raises(InputError, match=message) as raised:
        look("s3://bucket/set", tmp_path, ["a.mp4,Fire,train,", f"{path},Normal,train,"])
    assert "secret" not in str(raised.value)
    with pytest.raises(InputError, match=r"leaves the dataset's root|must not hold"):
        locate(path, "s3://bucket/set")


def test_roots_that_are_refused(tmp_path):
    for root, message in {
        "s3://me:secret@bucket/set": "must not hold a name or password",
        "s3://bucket/set?sig=secret": "has no [?] and no #",
        "s3://bucket/set/../other": "must not hold '..'",
    }.items():
        path = write_params(tmp_path, dataset={"name": "table", "table": "videos.csv", "root": root})
        with pytest.raises(InputError, match=message) as raised:
            load_params(path)
        assert "secret" not in str(raised.value)


def test_what_cannot_be_opened_is_a_line(bucket, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="fsspec knows no nosuch:// addresses"):
        look("nosuch://bucket/set", tmp_path)
    with monkeypatch.context() as patch:
        for module in ("s3fs", "gcsfs", "gcsfs.core"):
            patch.setitem(sys.modules, module, None)
        patch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
        scheme, package, extra = ("gs", "gcsfs", "gcs") if bucket.startswith("gs:") else ("s3", "s3fs", "s3")
        said = rf"{scheme}:// needs {package}, which is not installed \(pip install 'vadclip-flow\[{extra}\]'"
        with pytest.raises(InputError, match=said):
            look(f"{scheme}://bucket/set", tmp_path)
    filesystem = open_filesystem(bucket)[0]

    def forbidden(*arguments, **options):
        raise PermissionError(13, "Access Denied")

    # Its videos do not count as gone: their features would go.
    monkeypatch.setattr(filesystem, "ls", forbidden)
    with pytest.raises(InputError, match="/set cannot be listed: Access Denied"):
        look(f"{bucket}/set", tmp_path)


@pytest.mark.parametrize("kind", ["s3", pytest.param("gs", marks=pytest.mark.soak)])
def test_the_stages_with_ray_from_a_bucket(kind, corpus, tmp_path, request):
    """As DVC runs them: python -m flows.ingest, flows.extract; a second run finds nothing to do."""
    bucket = request.getfixturevalue(f"{kind}_bucket")
    upload(corpus, f"{bucket}/set")
    rows = [*ROWS[:2], "c.mkv,Fire,train,"]  # training needs both kinds
    (tmp_path / "videos.csv").write_text("\n".join(["path,label,split,segments", *rows]) + "\n")
    write_params(
        tmp_path,
        dataset={"name": "table", "table": "videos.csv", "root": f"{bucket}/set"},
        clip=tiny_clip(tmp_path / "clip").model_dump(),
        ingest={"val_fraction": 0.0},
        extract={"train_crops": 5},
        train={"selection": "last", "batch_size": 1},
        execution={"unit_images": 20, "encoder_batch": 16, "actors": 1, "video_cache_gib": 0.01},
    )

    def stage(name):
        run = python("-m", f"flows.{name}", folder=tmp_path)
        assert "secret-of-the-test" not in run.stdout + run.stderr
        return run.stdout

    stage("ingest")
    assert "3 videos with 74 rows, 0 failed" in stage("extract")
    manifest = read_manifest(tmp_path / "manifest.parquet")
    there = all_rows(tmp_path, manifest)
    assert {name: np.frombuffer(data, np.float16).size for (name, _), data in there.items()} == {
        "a": 4 * 64, "c": 12 * 64, "sub__b#1=c.d": 2 * 64,
    }  # fmt: skip
    local = tmp_path / "local"
    extract_here(
        local, manifest, corpus, load_params(tmp_path / "params.yaml").clip, extract_params(train_crops=5)
    )
    assert there == all_rows(local, manifest)
    before = {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()}
    assert sorted(name.partition("-")[0] for name in before) == ["index.parquet", "shard"]
    assert "nothing was missing" in stage("extract")
    assert {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()} == before
    for data in (*before.values(), (tmp_path / "extract_metrics.json").read_bytes()):
        assert b"secret-of-the-test" not in data
