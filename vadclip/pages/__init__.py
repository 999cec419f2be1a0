"""The pages that people read: report, comparison, detections. One look for all, in base.html.

Every page is one file that opens offline. Values are escaped by Jinja2, and a name that a template misspells
is an error.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from vadclip.files import write_text_atomic


def write_page(path: Path, template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> None:
    """Write a page of this folder's `template` to `path`; `filters` are functions that it calls by name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vadclip.pages", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    write_text_atomic(path, environment.get_template(template).render(**values) + "\n")
