"""Datasets: each module here turns one kind of annotation into a `RawDataset`; nothing else knows them.

To add a dataset, write a module with `load(params: DatasetParams) -> RawDataset`, and add its name to
`config.DatasetParams.name`. Its videos are found under `manifest.dataset_root(params)`.
"""

from importlib import import_module

from vadclip.config import DatasetParams
from vadclip.datasets.raw import RawDataset


def load_dataset(params: DatasetParams) -> RawDataset:
    """Read the annotations that `dataset` names.

    Raises InputError for what is missing or unreadable as a whole. Bad rows of a table are returned in
    `problems`.
    """
    # Only the module that is named: a served model knows how a video is described, and not the drawn world.
    found: RawDataset = import_module(f"vadclip.datasets.{params.name}").load(params)
    return found
