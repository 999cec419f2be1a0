"""Who a trained model is in the tracking store: model/run.json."""

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from vadclip.config import TrackingParams
from vadclip.files import write_text_atomic


@dataclass(frozen=True)
class RunIdentity:
    """The content of run.json."""

    model_id: str
    """Made once per training; finds the run even if a kill came before `run_id` was written down."""
    name: str
    experiment: str
    run_id: str | None
    """None if the store was away."""
    registered: str = ""
    """The name under which the model is registered."""

    @classmethod
    def new(cls, name: str, tracking: TrackingParams, registered: str = "") -> "RunIdentity":
        """Make an identity.

        tracking.run_name replaces `name`, which tells the settings. DVC's name of the experiment ends
        either; without both, a few letters of the id tell runs of equal settings apart.
        """
        model_id = uuid.uuid4().hex
        ending = os.environ.get("DVC_EXP_NAME") or (None if tracking.run_name else model_id[:4])
        full = "-".join(filter(None, (tracking.run_name or name, ending)))
        assert tracking.experiment is not None, "the caller names it after the dataset"
        return cls(model_id, full, tracking.experiment, None, registered)

    @classmethod
    def read(cls, path: Path) -> "RunIdentity | None":
        """Read run.json; None if there is none."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def write(self, path: Path) -> None:
        """Write run.json."""
        write_text_atomic(path, json.dumps(asdict(self), indent=2) + "\n")
