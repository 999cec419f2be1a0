import ast
import dataclasses
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT
from safetensors.torch import load_file
from training_helpers import CLASSES, task, text_tower

from vadclip.errors import InputError
from vadclip.model.folder import save_model
from vadclip.model.inference import class_texts, video_output
from vadclip.model.vadclip import VadClip
from vadclip.tracking.served import PACKAGES, TEXT_FILE, ServedModel, requirements, write_served

TEXT = text_tower()
FEATURES = np.random.default_rng(0).standard_normal((2, 19, 16)).astype(np.float32)


def _served(folder, **changes):
    todo = task(TEXT)
    todo = dataclasses.replace(todo, config=dataclasses.replace(todo.config, **changes))
    torch.manual_seed(0)
    model = VadClip(todo.config, CLASSES, TEXT).eval()
    save_model(folder / "model", model, todo.model_info(1, None, ()))
    text_KD = class_texts(model, "fp32")
    data, _ = write_served(folder / "served", folder / "model", text_KD)
    outputs = [video_output(model, rows, text_KD, "fp32") for rows in FEATURES]
    return data, outputs


@pytest.mark.parametrize("prompt", ["learned", "hand_crafted"])
def test_both_branches_equal_the_model_with_its_text_tower(tmp_path, prompt):
    data, outputs = _served(tmp_path, prompt=prompt)
    found = ServedModel(data).predict(FEATURES)
    assert {name: array.shape for name, array in found.items()} == {
        "anomaly_score": (2, 19),
        "class_probabilities": (2, 19, 3),
    }
    for number, output in enumerate(outputs):
        scores, classes = output.anomaly_logits_BT[0].sigmoid(), output.class_logits_BTK[0].softmax(-1)
        np.testing.assert_allclose(found["anomaly_score"][number], scores, atol=1e-6)
        np.testing.assert_allclose(found["class_probabilities"][number], classes, atol=1e-6)


def test_a_model_without_the_alignment_branch_has_no_class_probabilities(tmp_path):
    data, outputs = _served(tmp_path, branches="classification")
    assert not (data / TEXT_FILE).exists()
    found = ServedModel(data).predict(FEATURES)
    assert found.keys() == {"anomaly_score"}
    np.testing.assert_allclose(
        found["anomaly_score"][1], outputs[1].anomaly_logits_BT[0].sigmoid(), atol=1e-6
    )


def test_a_model_without_the_classification_branch_scores_by_what_is_not_normal(tmp_path):
    data, outputs = _served(tmp_path, branches="alignment", visual_prompt="average_frame")
    found = ServedModel(data).predict(FEATURES)
    normal = outputs[0].class_logits_BTK[0].softmax(-1)[:, 0]
    np.testing.assert_allclose(found["anomaly_score"][0], 1 - normal, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 16), (1, 3, 17), (1, 0, 16)])
def test_features_of_another_shape_are_an_error(tmp_path, shape):
    data, _ = _served(tmp_path)
    with pytest.raises(InputError, match=r"expected \[videos, snippets, 16\] with one snippet at least"):
        ServedModel(data).predict(np.zeros(shape, np.float32))


def test_no_weight_of_the_clip_is_served(tmp_path):
    data, _ = _served(tmp_path)
    assert sorted(path.name for path in data.iterdir()) == [TEXT_FILE, "model.json", "model.safetensors"]
    names = load_file(data / "model.safetensors").keys()
    assert not any("token_embedding" in name or "transformer.resblocks" in name for name in names)


def _third_party(module, seen):
    """Packages that a module of ours imports when it is imported, and those that it imports in turn."""
    if module in seen:
        return set()
    seen.add(module)
    path = PROJECT / f"{module.replace('.', '/')}.py"
    if not path.exists():
        path = path.with_suffix("") / "__init__.py"
    found = set()
    for node in ast.parse(path.read_text()).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            package = name.split(".")[0]
            if package == "vadclip":
                found |= _third_party(name, seen)
            elif package not in sys.stdlib_module_names:
                found.add({"open_clip": "open_clip_torch", "yaml": "pyyaml"}.get(package, package))
    return found


def test_the_requirements_are_what_the_served_code_imports():
    # torchvision comes through open_clip, and must fit torch: both are pinned.
    assert set(PACKAGES) == _third_party("vadclip.tracking.served", set()) | {"torchvision"}
    assert all(line.count("==") == 1 and "+" not in line for line in requirements())
