"""Which files a working copy shares with the main checkout, and who may use them at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from params_helpers import dataset_params

from vadclip.checkout import given_path, main_checkout, shared_cache
from vadclip.config import ClipParams
from vadclip.datasets.sample import sample_root
from vadclip.errors import InputError
from vadclip.files import held_alone
from vadclip.ingest.inputs import write_inputs
from vadclip.manifest import dataset_root


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A clone of a repository as `dvc exp run --temp` starts a stage in it."""
    main = tmp_path / "main"
    (main / "tables").mkdir(parents=True)
    (main / "videos").mkdir()
    (main / ".gitignore").write_text("/videos/*.mp4\n/weights.pt\n")
    for name in ("tables/mine.csv", "videos/table.csv", "videos/a.mp4", "weights.pt"):
        (main / name).touch()
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "a project"]):
        subprocess.run(["git", *identity, *command], cwd=main, check=True)
    subprocess.run(["git", "clone", "-q", main, tmp_path / "copy"], check=True)
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("DVC_ROOT", str(main))
    return tmp_path / "copy"


def test_a_copy_takes_what_git_tracks_from_itself_and_the_rest_from_the_main_checkout(copy):
    main = copy.with_name("main")
    assert main_checkout() == main
    assert shared_cache() == main / ".cache"
    assert given_path("tables/mine.csv") == Path("tables/mine.csv")
    assert given_path("tables") == Path("tables")
    assert given_path("weights.pt") == main / "weights.pt"
    assert given_path("videos") == main / "videos"  # git tracks the table in it, and no video
    assert given_path("videos/table.csv") == Path("videos/table.csv")
    assert given_path("absent.csv") == main / "absent.csv"
    assert given_path("/data/videos") == Path("/data/videos")


def test_the_sample_and_a_tables_folder_follow(copy):
    main = copy.with_name("main")
    assert Path(dataset_root(dataset_params("sample"))) / sample_root() == main / sample_root()
    table = dataset_params("table", root="videos", table="tables/mine.csv")
    assert dataset_root(table) == str(main / "videos")
    assert dataset_root(table.model_copy(update={"root": None})) == str(copy / "tables")


def test_a_named_weights_file_is_the_main_checkouts_and_inputs_json_the_same(copy):
    clip = ClipParams(model="ViT-B-16-quickgelu", pretrained="weights.pt", quick_gelu=True, precision="fp32")
    assert clip.weights_name == str(copy.with_name("main") / "weights.pt")
    assert clip.config_name == "ViT-B-16-quickgelu"
    write_inputs({"clip.pretrained": clip.weights_name}, Path("inputs.json"))
    assert json.loads(Path("inputs.json").read_text())["clip.pretrained"]["path"] == "weights.pt"


def test_the_main_checkout_takes_everything_from_itself(copy, monkeypatch):
    monkeypatch.chdir(copy.with_name("main"))
    assert shared_cache() == Path(".cache")
    assert given_path("weights.pt") == Path("weights.pt")


HOLD = """
import sys, time
from pathlib import Path
from vadclip.files import held_alone
with held_alone(Path(sys.argv[1]), "a test"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_the_holder_of_a_lock_is_named_and_waited_for(tmp_path, capfd):
    lock = tmp_path / "new" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, lock, "1"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    refused = (
        rf"^a test is at work here as process {holder.pid}: wait for it, or stop it with `kill {holder.pid}`"
    )
    with pytest.raises(InputError, match=refused), held_alone(lock, "another"):
        pass
    with held_alone(lock, "another", wait=True):
        assert holder.wait(5) == 0
        assert capfd.readouterr().err == f"waiting: a test is at work here as process {holder.pid}\n"
        assert lock.read_text().startswith("another\n")


def test_a_killed_holder_holds_nothing(tmp_path):
    lock = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, lock, "60"], stdout=subprocess.PIPE)
    holder.stdout.readline()
    holder.kill()
    holder.wait()
    with held_alone(lock, "another"):
        lock.unlink()  # its folder may go with it
    with held_alone(lock, "a third"):
        assert lock.exists()
