"""What the pool asks of a cluster's autoscaler: room for its work while there is any, nothing afterwards."""

import json
import os
from pathlib import Path

import pytest
import ray
from execution_helpers import execution_params
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from vadclip.pool.pool import Pool


class Echo:
    def __init__(self, files):
        pass

    def run(self, task, beat):
        return task


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    # The pool finds it running, as in a cluster's job. Without an autoscaler, Ray keeps what it is asked.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parent}")
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def asked():
    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]")


@pytest.mark.parametrize(("actors", "expected"), [(None, 5), (1, 1)])
def test_room_is_asked_for_as_many_actors_as_there_is_work_for(actors, expected):
    execution = execution_params(actors=actors, cpus_per_actor=0.5)
    with Pool(Echo, execution) as pool:
        outcomes = pool.run(range(5))
        results = [next(outcomes).result]
        assert asked() == [{"CPU": 0.5}] * expected
        results += [outcome.result for outcome in outcomes]
    assert sorted(results) == list(range(5))
    assert asked() == []
