import json
from pathlib import Path

import pytest
from training_helpers import params

from vadclip.config import ClipParams
from vadclip.errors import InputError
from vadclip.files import sha256_file
from vadclip.ingest.inputs import named_files, write_inputs


def test_inputs_name_files_by_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = ClipParams(model="c/clip.json", pretrained="c/clip.safetensors", quick_gelu=True, precision="fp32")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "clip.json").write_text("{}")
    with pytest.raises(InputError, match=r"clip\.pretrained is 'c/clip\.safetensors': no such file"):
        write_inputs(named_files(clip, params()), Path("inputs.json"))
    (tmp_path / "c" / "clip.safetensors").write_bytes(b"weights")
    write_inputs(named_files(clip, params()), Path("inputs.json"))
    assert json.loads(Path("inputs.json").read_text()) == {
        "clip.model": {"path": "c/clip.json", "sha256": sha256_file(Path("c/clip.json"))},
        "clip.pretrained": {"path": "c/clip.safetensors", "sha256": sha256_file(Path("c/clip.safetensors"))},
    }
    before = Path("inputs.json").stat().st_ino
    write_inputs(named_files(clip, params()), Path("inputs.json"))
    assert Path("inputs.json").stat().st_ino == before
    (tmp_path / "c" / "clip.safetensors").write_bytes(b"other weights")
    write_inputs(named_files(clip, params()), Path("inputs.json"))
    assert sha256_file(Path("c/clip.safetensors")) in Path("inputs.json").read_text()
    tags = ClipParams(model="ViT-B-16-quickgelu", pretrained="openai", quick_gelu=None, precision="fp32")
    assert named_files(tags, params()) == {}


def test_a_checkpoint_is_an_input_by_content(tmp_path):
    tags = ClipParams(model="ViT-B-16-quickgelu", pretrained="openai", quick_gelu=None, precision="fp32")
    checkpoint = tmp_path / "model_ucf.pth"
    files = named_files(tags, params(checkpoint=str(checkpoint)))
    with pytest.raises(InputError, match=r"train\.checkpoint is '.*model_ucf\.pth': no such file"):
        write_inputs(files, tmp_path / "inputs.json")
    checkpoint.write_bytes(b"weights")
    write_inputs(files, tmp_path / "inputs.json")
    entry = json.loads((tmp_path / "inputs.json").read_text())["train.checkpoint"]
    assert entry == {"path": str(checkpoint), "sha256": sha256_file(checkpoint)}
