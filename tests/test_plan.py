"""No room for the ledger's table."""

import subprocess
import sys

from conftest import PROJECT

FULL = """
import resource
from dataclasses import dataclass
from pathlib import Path
from vadclip.errors import InputError
from vadclip.extract.ledger import Ledger, scratch_faults
from vadclip.features.shards import Block

@dataclass
class Many:
    path, row_bytes = Path("shard-x.parquet"), 0
    blocks = [Block(f"v{number}" + 500 * "x", 0, 0, 1, 1, 16, "h") for number in range(20_000)]

resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))
try:
    with scratch_faults():
        Ledger().add(Many())
except InputError as error:
    print(error)
"""


def test_no_room_for_the_tables_is_one_line():
    environment = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}"}
    run = subprocess.run(
        [sys.executable, "-c", FULL], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("the temporary folder cannot hold the stage's tables (")
    assert run.stdout.endswith("make room there, or name another folder in SQLITE_TMPDIR\n")
