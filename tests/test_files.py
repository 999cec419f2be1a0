"""Writes are whole or absent, and names cannot leave their folder."""

import pytest
from conftest import python

from vadclip.files import atomic_path, safe_name, sha256_file, write_text_atomic


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path):
    target = tmp_path / "new" / "metrics.json"
    write_text_atomic(target, "old")
    with pytest.raises(RuntimeError, match="boom"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("boom")
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["metrics.json"]


def test_the_temporary_file_keeps_the_suffix_by_which_writers_choose_a_format(tmp_path):
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")


def test_equal_bytes_are_not_written_again(tmp_path):
    target = tmp_path / "manifest"
    found = []
    for content in (b"same", b"same", b"other"):
        with atomic_path(target, keep_equal=True) as temporary:
            temporary.write_bytes(content)
        found.append((target.read_bytes(), target.stat().st_ino))
    assert found[0] == found[1]
    assert found[2][0] == b"other"


def test_sha256_of_a_file(tmp_path):
    # The published digest of the three bytes "abc".
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("name", ["v=S-7rRLrxnVQ__#1_label_B4-0-0", "überwachung 1", "a.b.c", "x" * 200])
def test_names_that_stay_in_their_folder(name):
    assert safe_name(name)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("vadclip", "torch numpy pyarrow ray mlflow pydantic"),
        ("vadclip.evaluate.report, vadclip.score.scores", "torch open_clip ray mlflow dvc"),
    ],
)
def test_importing_imports_nothing_heavy(modules, heavy):
    code = f"import sys, {modules}; print([name for name in {heavy.split()} if name in sys.modules])"
    assert python("-c", code).stdout == "[]\n"
