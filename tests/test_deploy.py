"""deploy/ without a cluster: the manifest against its schema and what this repository pins and runs."""

import copy
import importlib.util
import re
import tomllib

import jsonschema
import pytest
import yaml
from conftest import PROJECT
from rayjob_schema import RAY_JOB
from test_dvc_rules import foreign_imports

from vadclip.config import load_params

VALIDATOR = jsonschema.Draft202012Validator(RAY_JOB)
TEXT = (PROJECT / "deploy" / "rayjob.yaml").read_text()
DOCKERFILE = (PROJECT / "deploy" / "Dockerfile").read_text()
SCALING = (PROJECT / "docs" / "scaling.md").read_text()
PINS = dict(
    line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line
)


@pytest.fixture
def job():
    return yaml.safe_load(TEXT)


def head(job):
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]


def worker(job):
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


def container(group):
    return group["template"]["spec"]["containers"][0]


def test_manifest_fits_the_schema(job):
    jsonschema.Draft202012Validator.check_schema(RAY_JOB)
    assert [error.message for error in VALIDATOR.iter_errors(job)] == []


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda job: job["spec"].update(shutdownAfterJobFinish=True), "shutdownAfterJobFinish"),
        (lambda job: job["spec"].update(backoffLimit="2"), "'2' is not of type 'integer'"),
        (lambda job: job["spec"].pop("rayClusterSpec"), "'rayClusterSpec' is a required property"),
        (lambda job: job.update(apiVersion="ray.io/v1alpha1"), "'ray.io/v1' was expected"),
        (lambda job: head(job)["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
        (lambda job: worker(job).pop("maxReplicas"), "'maxReplicas' is a required property"),
        (lambda job: worker(job)["template"]["spec"].update(restartPolicy="Always"), "'Never' was expected"),
        (lambda job: container(worker(job)).update(volumeMount=[]), "volumeMount"),
        (lambda job: container(worker(job))["resources"]["limits"].update(memory="64GB"), "'64GB' does not"),
        (lambda job: job["metadata"].update(name="Extract_1"), "'Extract_1' does not match"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schema_sees_what_is_wrong(job, spoil, complaint):
    spoilt = copy.deepcopy(job)
    spoil(spoilt)
    assert any(complaint in error.message for error in VALIDATOR.iter_errors(spoilt))


def test_names_within_the_manifest_agree(job):
    for group in (head(job), worker(job)):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container(group).get("volumeMounts", [])} == volumes
    assert container(head(job))["image"] == container(worker(job))["image"]
    assert worker(job)["minReplicas"] <= worker(job)["replicas"] <= worker(job)["maxReplicas"]
    # The operator waits with a TTL only where it shuts down at all.
    assert job["spec"]["shutdownAfterJobFinishes"]
    # An actor must fit when the job starts: what does not fit then is an error, not a reason to wait.
    assert worker(job)["minReplicas"] >= 1


def test_versions_are_the_pinned_ones(job):
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]
    base = re.search(r"^FROM rayproject/ray:([\d.]+)-py3(\d+)$", DOCKERFILE, re.MULTILINE)
    assert base[1] == PINS["ray"]
    assert f"sys.version_info[:2] == (3, {base[2]})" in DOCKERFILE
    requires = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", requires).groups()
    assert int(low) <= int(base[2]) < int(high)


def test_the_image_holds_what_the_stages_of_a_job_import_and_its_context_no_more_than_it_copies():
    copied = re.findall(r"^COPY --chown=ray (\S+) \S+$", DOCKERFILE, re.MULTILINE)
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    assert ignored[1:] == ["*", *(f"!{name}" for name in copied)]
    assert all((PROJECT / name).is_file() for name in copied)
    installed = re.search(r"pip install (.*?) &&", DOCKERFILE.replace("\\\n", " "), re.DOTALL)[1].split()
    names = {re.sub(r"\[.*", "", word.strip('"')).lower().replace("_", "-") for word in installed}
    other_names = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open-clip-torch"}
    needed = {
        other_names.get(module, module).replace("_", "-")
        for stage in ("ingest", "extract")
        for module in foreign_imports(f"flows.{stage}")
    }
    brought = {"aiohttp", "huggingface-hub"}  # by gcsfs and open_clip_torch
    assert needed - brought <= names
    assert {"ray", "torch", "open-clip-torch", "pebble"} <= needed
    assert not {"dvc", "mlflow", "matplotlib", "scikit-learn"} & names


def test_entrypoint_runs_in_the_project(job):
    module = re.fullmatch(r"env --chdir=(\S+) python3 -m (\S+)", job["spec"]["entrypoint"])
    assert importlib.util.find_spec(module[2]) is not None
    # The head alone mounts the project, and may write to it as the image's user.
    assert module[1] in {mount["mountPath"] for mount in container(head(job))["volumeMounts"]}
    assert head(job)["template"]["spec"]["securityContext"]["fsGroup"] == 100
    assert "volumeMounts" not in container(worker(job))
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    assert stages["extract"]["cmd"] == f"python3 -m {module[2]}"


@pytest.mark.parametrize("recipe", ["ucf_crime", "xd_violence"])
def test_worker_is_filled_by_the_recipes_actors(job, recipe):
    execution = load_params(PROJECT / "vadclip" / "recipes" / f"{recipe}.yaml").execution
    limits = container(worker(job))["resources"]["limits"]
    per_gpu = limits["nvidia.com/gpu"] / execution.gpus_per_actor
    assert int(limits["cpu"]) / execution.cpus_per_actor == per_gpu == 16


def test_no_secret_is_in_it(job):
    for group in (head(job), worker(job)):
        given = {variable["name"] for variable in container(group)["env"]}
        assert not {name for name in given if re.search("KEY|SECRET|TOKEN|PASSWORD", name)}
    assert "authOptions" in job["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("text", [TEXT, SCALING], ids=["rayjob.yaml", "scaling.md"])
def test_params_that_are_named_exist(text):
    sections = load_params(PROJECT / "params.yaml").model_dump()
    named = re.findall(r"\b(dataset|clip|extract|execution)\.([a-z]\w+)", re.sub(r"flows\.\w+", "", text))
    assert len(named) >= 2
    for section, key in named:
        assert key in sections[section], f"{section}.{key}"
