"""Take the pictures of docs/compare.md from a project that has been run.

    python -m benchmarks.screenshots docs/images

The report at the width of a desk and of a phone, light and dark; of MLflow the runs in their prepared view,
two side by side, and the newest logged model. Needs Chromium and the extra `browser`.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
from playwright.sync_api import Browser, sync_playwright

from vadclip.errors import InputError
from vadclip.tracking.registry import view_addresses
from vadclip.tracking.store import store_uri


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
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(Path("report.html").resolve().as_uri())
            page.screenshot(path=out / f"report-{width}-{scheme}.png")
            page.close()
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
        runs = [run.info.run_id for run in client.search_runs([experiment], max_results=2)]
        addresses = {"mlflow-runs": view}
        if len(runs) == 2:
            pair = f'["{runs[0]}","{runs[1]}"]'
            addresses["mlflow-compare"] = f'{base}/#/compare-runs?runs={pair}&experiments=["{experiment}"]'
        for model in client.search_logged_models([experiment], max_results=1):
            addresses["mlflow-model"] = f"{base}/#/experiments/{experiment}/models/{model.model_id}"
        for name, address in addresses.items():
            page = browser.new_page(viewport={"width": 1500, "height": 900})
            page.goto(address, wait_until="domcontentloaded")
            page.wait_for_timeout(15_000)  # MLflow's pages ask on and on, so silence tells nothing
            page.screenshot(path=out / f"{name}.png")
            page.close()
    finally:
        server.terminate()
        server.wait()


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
