"""Take the pictures of docs/compare.md and docs/detect.md from a project that has been run.

    python -m benchmarks.screenshots docs/images

The report; compare.html and detections/index.html, if they are there;
of MLflow the runs in their prepared view, all of them side by side, and the newest logged model. Needs
Chromium and the extra `browser`.
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Literal

import mlflow
from PIL import Image
from playwright.sync_api import Browser, FloatRect, sync_playwright

from vadclip.errors import InputError
from vadclip.files import atomic_path
from vadclip.tracking.mlflow_store import store_uri
from vadclip.tracking.registry import view_addresses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise InputError("no Chromium: install one, or name it by CHROMIUM")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, path, width, scheme in (
            ("report", Path("report.html"), 1280, "light"),
            ("compare", Path("compare.html"), 1280, "light"),
            ("detections", Path("detections/index.html"), 1280, "light"),
        ):
            if path.exists():
                _take(browser, path.resolve().as_uri(), out / f"{name}.png", width, scheme=scheme)
        _mlflow_pictures(browser, out)
        browser.close()


def _mlflow_pictures(browser: Browser, out: Path) -> None:
    store = store_uri(None)
    client = mlflow.MlflowClient(store)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--backend-store-uri", store],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{base}/health")
        views = view_addresses(port)
        if not views:
            raise InputError(f"{store} has no prepared view: run `make repro` first")
        name, _, view = views[0].partition(": ")
        experiment = client.get_experiment_by_name(name).experiment_id
        runs = ",".join(f'"{run.info.run_id}"' for run in client.search_runs([experiment]))
        compared = f'runs=[{runs}]&experiments=["{experiment}"]&workflowType=machine_learning'
        addresses = {"mlflow-runs": view, "mlflow-compare": f"{base}/#/compare-runs?{compared}"}
        for model in client.search_logged_models([experiment], max_results=1):
            addresses["mlflow-model"] = (
                f"{base}/#/experiments/{experiment}/models/{model.model_id}?workflowType=machine_learning"
            )
        for name, address in addresses.items():
            # It asks its server on and on, and shows an assistant at the right.
            _take(browser, address, out / f"{name}.png", 1800, shown=1400, settle=15_000)
    finally:
        server.terminate()
        server.wait()


def _take(
    browser: Browser,
    address: str,
    target: Path,
    width: int,
    *,
    scheme: Literal["light", "dark"] = "light",
    shown: int | None = None,
    settle: int = 500,
) -> None:
    """Write a picture of a window, or of its left part, in 256 colours, after `settle` milliseconds."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_timeout(settle)
    clip: FloatRect = {"x": 0, "y": 0, "width": shown or width, "height": 900}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB").quantize(256)
    with atomic_path(target) as temporary:
        picture.save(temporary, format="png", optimize=True)
    page.close()


def _wait_for(address: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=2)
        except OSError:
            time.sleep(1)
        else:
            return
    raise InputError(f"{address} does not answer")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
