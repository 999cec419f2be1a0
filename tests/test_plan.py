"""What a run has yet to do, on disk: the plan of units, the queue of jobs, and no room for them."""

import subprocess
import sys
from collections.abc import Iterator

from conftest import PROJECT
from feature_helpers import make_video

from vadclip.extract.coverage import Gap
from vadclip.extract.plan import Plan
from vadclip.extract.units import plan_units
from vadclip.pool.jobs import Job, Jobs


def test_units_come_out_largest_first_as_they_went_in() -> None:
    names = ["XD #1=2@3", "été", 'it\'s "quoted"', "--", "日本", "z"]
    gaps = [
        (make_video(name, 16 * 40), f"/videos/{name}.mp4", Gap((0, 5), 0, 3 * number + 1))
        for number, name in enumerate(names)
    ]
    units = list(plan_units(gaps, frames_per_snippet=16, unit_images=100))
    plan = Plan(units)
    assert len(plan) == len(units)
    assert plan.images == sum(unit.images for unit in units) == sum(3 * n + 1 for n in range(6)) * 32
    assert list(plan) == sorted(units, key=lambda unit: -unit.images)  # of equal ones the first made
    assert list(plan) == list(plan)
    assert list(Plan([])) == []
    assert Plan([]).images == 0


class Counted:
    """Five tasks; knows how many were fetched."""

    fetched = 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[str]:
        for task in "abcde":
            self.fetched += 1
            yield task


def test_tasks_are_fetched_as_their_turn_comes_between_those_tried_again() -> None:
    tasks = Counted()
    jobs: Jobs[str] = Jobs(tasks)
    assert (len(jobs), tasks.fetched) == (5, 0)
    assert jobs.take() == Job("a")
    assert (len(jobs), tasks.fetched) == (4, 1)
    jobs.put_last(Job("a", attempts=1))
    jobs.put_first([Job("x"), Job("y")])
    assert len(jobs) == 7
    assert [jobs.take().task for _ in range(3)] == ["x", "y", "b"]
    assert tasks.fetched == 2
    jobs.drop_until(lambda task: task != "c")
    assert (len(jobs), tasks.fetched) == (3, 4)
    assert [jobs.take() for _ in range(3)] == [Job("d"), Job("e"), Job("a", attempts=1)]
    assert len(jobs) == 0
    jobs.put_last(Job("f"))
    jobs.drop_until(lambda task: False)
    assert len(jobs) == 0


FULL = """
import resource
from feature_helpers import make_video
from vadclip.errors import InputError
from vadclip.extract.plan import Plan
from vadclip.extract.units import plan_units
from vadclip.extract.coverage import Gap
from vadclip.scratch import scratch_faults

resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))
gap, place = Gap((0,), 0, 1), "/videos/" + 500 * "x"
videos = ((make_video(f"v{number}", 1600), place, gap) for number in range(20_000))
try:
    with scratch_faults():
        Plan(plan_units(videos, frames_per_snippet=1, unit_images=50))
except InputError as error:
    print(error)
"""


def test_no_room_for_the_tables_is_one_line() -> None:
    environment = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}"}
    run = subprocess.run(
        [sys.executable, "-c", FULL], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("the temporary folder cannot hold the stage's tables (")
    assert run.stdout.endswith("make room there, or name another folder in SQLITE_TMPDIR\n")
