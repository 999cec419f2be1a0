"""The `vadclip` command."""

import io
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from vadclip.config import PARAMS_FILE, flatten, load_params, read_yaml
from vadclip.errors import InputError, VadclipError
from vadclip.files import write_text_atomic

app = typer.Typer(no_args_is_help=True, add_completion=False, help="VadCLIP as a pipeline.")


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(help="sample, ucf_crime or xd_violence")],
    params: Annotated[Path, typer.Option(help="The file to write.")] = PARAMS_FILE,
    force: Annotated[bool, typer.Option("--force", help="Write over values of your own.")] = False,
) -> None:
    """Write a complete params.yaml for a dataset and show what it changes."""
    recipes = _recipes()
    if name not in recipes:
        raise InputError(f"no recipe {name!r}; there are {', '.join(sorted(recipes))}")
    text = recipes[name]
    _let_replace(params, force)
    before = _flat(read_yaml(params)) if params.exists() else {}
    after = _flat(yaml.safe_load(text))
    write_text_atomic(params, text)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            print(f"{key}: {before.get(key)} -> {after.get(key)}" if before else f"{key}: {after[key]}")
    print(
        f"wrote {params} for {name}; look for EDIT in it" if "EDIT" in text else f"wrote {params} for {name}"
    )


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="A folder with a subfolder for each class, or a CSV table.")],
    normal: Annotated[str | None, typer.Option(help="The normal class, where none is called normal.")] = None,
    clip: Annotated[str, typer.Option(help="sample, openai, or a weights file.")] = "openai",
    params: Annotated[Path, typer.Option(help="The file to write.")] = PARAMS_FILE,
    force: Annotated[bool, typer.Option("--force", help="Write over what is yours.")] = False,
) -> None:
    """Look into your own videos and write a params.yaml that suits them."""
    from vadclip.checkout import shared_cache
    from vadclip.ingest.first_params import begin

    _let_replace(params, force)
    for line in begin(path, normal=normal, clip=clip, params_file=params, force=force, cache=shared_cache()):
        print(line)
    print("next: make repro, then open report.html")


def _recipes() -> dict[str, str]:
    found = (entry for entry in files("vadclip.recipes").iterdir() if entry.name.endswith(".yaml"))
    return {entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for entry in found}


def _flat(content: object) -> dict[str, Any]:
    return flatten(content) if isinstance(content, Mapping) else {}


def _let_replace(params: Path, force: bool) -> None:
    """Return if a params file is not there, is a recipe as it was written, or may go; else InputError."""
    if force or not params.exists():
        return
    content = read_yaml(params)
    if any(content == yaml.safe_load(text) for text in _recipes().values()):
        return
    if not sys.stdin.isatty():
        raise InputError(f"{params} has values of your own, which would be lost: keep a copy, or add --force")
    typer.confirm(f"{params} has values of your own, which would be lost. Write over them?", abort=True)


@app.command(name="import-checkpoint")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="An official checkpoint, such as model_ucf.pth.")],
    model_folder: Annotated[Path, typer.Option(help="The model folder to write.")] = Path("model"),
    params: Annotated[Path, typer.Option(help="Names sizes, classes and CLIP.")] = PARAMS_FILE,
    write_clip: Annotated[
        Path | None, typer.Option(help="Only extract the CLIP weights it holds, to this .safetensors file.")
    ] = None,
) -> None:
    """Make a model folder of an official checkpoint, outside the pipeline (inside: train.checkpoint)."""
    from vadclip.model.official import read_checkpoint, write_clip_weights

    read = read_checkpoint(checkpoint)
    if write_clip is not None:
        if write_clip.suffix != ".safetensors":
            raise InputError(f"--write-clip {write_clip}: it writes safetensors; let the name end in that")
        write_clip_weights(read, write_clip)
        print(
            f"wrote {write_clip}; in params.yaml: clip.pretrained: {write_clip}, clip.quick_gelu: true, and "
            "clip.model as it is with the official CLIP: ViT-B-16-quickgelu"
        )
        return
    from vadclip.model.checkpoint_commands import import_to_folder

    for note in import_to_folder(read, load_params(params), model_folder, Path("manifest.parquet")):
        print(f"note: {note}")
    print(f"wrote {model_folder} from {checkpoint} (sha256 {read.sha256[:12]})")


@app.command(name="export-checkpoint")
def export_checkpoint(
    out: Annotated[Path, typer.Argument(help="The .pth to write.")],
    model_folder: Annotated[Path, typer.Option(help="The model folder to read.")] = Path("model"),
    params: Annotated[Path, typer.Option(help="Names the CLIP, which goes into the file.")] = PARAMS_FILE,
) -> None:
    """Write a model folder as a checkpoint that the official code loads."""
    from vadclip.model.checkpoint_commands import export_from_folder

    export_from_folder(model_folder, load_params(params), out)
    print(f"wrote {out} from {model_folder}")


@app.command()
def detect(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, s3:// gs:// http(s)://.")],
    model: Annotated[str, typer.Option(help="Model folder, or models:/NAME@ALIAS of MLflow.")] = "model",
    out: Annotated[Path, typer.Option(help="Folder of what is found.")] = Path("detections"),
    clip: Annotated[
        str | None, typer.Option(help="Weights file (or open_clip tag) of the model's CLIP.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="cpu or cuda.")] = "cpu",
    ray_address: Annotated[str | None, typer.Option(help="A Ray cluster: auto, or host:port.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="An event lies above it; default: the model's own.")
    ] = None,
    max_flagged_normal: Annotated[
        float, typer.Option(help="Share of normal validation videos that may raise an event.")
    ] = 0.05,
    prompt: Annotated[
        list[str] | None, typer.Option(help="TEXT adds a class, LABEL=TEXT rewords one; repeatable.")
    ] = None,
    only_prompts: Annotated[bool, typer.Option(help="Keep only normal and the prompted classes.")] = False,
    prompt_threshold: Annotated[
        float | None, typer.Option(help="A prompt's probability above it is an event as well.")
    ] = None,
    render: Annotated[bool, typer.Option(help="Also write videos with score and class drawn in.")] = False,
    force: Annotated[bool, typer.Option(help="Let --render overwrite what is there.")] = False,
) -> None:
    """Find anomalies in new videos with a trained model."""
    from rich.console import Console

    from vadclip.detect.command import Request
    from vadclip.detect.command import detect as run

    with _interruptible(), _model_folder(model) as folder:
        request = Request(
            paths, folder, out, clip=clip, device=device, ray_address=ray_address, threshold=threshold,
            max_flagged_normal=max_flagged_normal, prompts=prompt or (), only_prompts=only_prompts,
            prompt_threshold=prompt_threshold, render=render, force=force,
        )  # fmt: skip
        run(request, Console())


@app.command()
def doctor(params: Annotated[Path, typer.Option(help="The project's params.")] = PARAMS_FILE) -> None:
    """Check whether the pipeline can run here: a line a check, and what to do about each miss."""
    from vadclip.doctor import examine

    missing = 0
    for finding in examine(params):
        missing += finding.state == "miss"
        print(f"{finding.state:4}  {finding.what:9} {finding.words}", flush=True)
        if finding.state != "ok":
            print(f"      {'':9} -> {finding.fix}", flush=True)
    if missing:
        raise typer.Exit(1)


@contextmanager
def _model_folder(name: str) -> Iterator[Path]:
    """Yield the folder of a model that is named by its folder or by MLflow's address."""
    if not name.startswith("models:/"):
        yield Path(name)
        return
    from vadclip.tracking.registry import fetch_model

    with tempfile.TemporaryDirectory() as folder:
        yield fetch_model(name, Path(folder))


@contextmanager
def _interruptible() -> Iterator[None]:
    """End with status 130 at Ctrl-C or SIGTERM, where click would say 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: what is done is kept; run the same command again to go on", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # a decoder's thread must not turn an interrupt into a hang


@app.command()
def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            help="Folders, models:/ addresses, MLflow run ids, git revisions or DVC experiments; runs of "
            "one side (seeds) joined by commas; zero-shot:NAME is the CLIP alone."
        ),
    ],
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all of it as JSON.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Also write it as a page.")] = None,
) -> None:
    """Say whether a model is better than the first named, on equal test videos."""
    from rich.console import Console

    from vadclip.compare.comparison import compare as run
    from vadclip.compare.show import print_comparison, write_html, write_json
    from vadclip.compare.sides import read_sides

    with tempfile.TemporaryDirectory() as scratch:
        found = run(read_sides(sides, Path(scratch)))
    if json_file is not None:
        write_json(found, json_file)
    if html_file is not None:
        write_html(found, html_file)
    print_comparison(found, Console(markup=False, highlight=False))


def main() -> None:
    """Run the command line: the user's mistake is one line and status 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot write, it shows as escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except VadclipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
