"""A report as files in a folder."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from factorlm.errors import InputError
from factorlm.evaluation.document import Curve, Intervals, Matrix, Report, Scatter
from factorlm.evaluation.report.markdown import markdown
from factorlm.evaluation.report.page import page
from factorlm.evaluation.report.pictures import WIDE, Picture, draw, summary
from factorlm.files import write_whole


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write report.json, report.md with its pictures, and report.html; each file appears whole or not at all.

    The same report gives the same bytes. The page needs no other file; the Markdown shows those in `pictures`.

    Args:
        report: what was found.
        folder: made if it is not there; files of these names are replaced.

    Returns:
        The files: JSON, Markdown, HTML, then the pictures.

    Raises:
        InputError: if the folder is a file, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"a folder for the report is needed, got the file {folder}; choose another name")
    models = [card.name for card in report.models]
    paths: dict[int, str] = {}  # of pictures, by identity: two may be equal
    drawn: dict[str, str] = {}
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Curve | Scatter | Intervals | Matrix) and id(block) not in paths:
                paths[id(block)] = path = f"pictures/{len(paths) + 1:02}-{_stem(block)}.svg"
                drawn[path] = draw(block, WIDE, models).svg(summary(block), standalone=True)
    contents = {
        "report.json": json_text(report),
        "report.md": markdown(report, lambda block: paths[id(block)]),
        "report.html": page(report),
        **drawn,
    }
    try:
        for name in (*drawn, "report.json", "report.md", "report.html"):  # what others point to comes first
            write_whole(folder / name, contents[name])
    except OSError as error:
        raise InputError(
            f"the report cannot be written to {folder}: {error.strerror or error}; choose another folder"
        ) from None
    return [folder / name for name in contents]


def json_text(report: Report) -> str:
    """The report as JSON; numbers that are not finite, which JSON has not, are null."""
    tree = _plain(report.model_dump(mode="json"))
    return json.dumps(tree, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)  # lone halves of characters cannot be written
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _stem(block: Picture) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", block.title.lower()).strip("-")
    short = words if len(words) <= 40 else words[:41].rpartition("-")[0] or words[:40]
    return short or block.kind
