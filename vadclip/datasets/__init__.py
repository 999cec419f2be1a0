"""Datasets: each module here turns one kind of annotation into a `RawDataset`; nothing else knows them.

To add a dataset, write a module with `load(params: DatasetParams) -> RawDataset`, give it a line in
`LOADERS`, and its name in `config.DatasetParams.name`. Its videos are found under
`manifest.dataset_root(params)`.
"""

from collections.abc import Callable

from vadclip.config import DatasetParams
from vadclip.datasets.raw import RawDataset, RawVideo
from vadclip.datasets.sample import load as load_sample
from vadclip.datasets.table import load as load_table
from vadclip.datasets.ucf_crime import load as load_ucf_crime
from vadclip.datasets.xd_violence import load as load_xd_violence

__all__ = ["LOADERS", "RawDataset", "RawVideo", "load_dataset"]

LOADERS: dict[str, Callable[[DatasetParams], RawDataset]] = {
    "sample": load_sample,
    "table": load_table,
    "ucf_crime": load_ucf_crime,
    "xd_violence": load_xd_violence,
}


def load_dataset(params: DatasetParams) -> RawDataset:
    """Read the annotations that `dataset` names.

    Raises InputError for what is missing or unreadable as a whole. Bad rows of a table are returned in
    `problems`.
    """
    return LOADERS[params.name](params)
