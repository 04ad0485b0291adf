"""The texts of a column of a parquet file, any stretch of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factorlm.errors import InputError
from factorlm.memory.corpus import Troubles

PARQUET = ".parquet"
ROWS = 256  # that are read at once
NO_COLUMN = "files without the column, left out"


def column_of(path: Path, column: str, start: int, end: int | None, troubles: Troubles) -> Iterator[str | None]:
    """The texts of a column; nothing, and a note, if there is no such column of texts.

    Args:
        path: of the file.
        column: name.
        start: first row.
        end: the row behind the last one; None takes all.
        troubles: where a missing column is counted.

    Raises:
        OSError: if the file cannot be read.
        InputError: if pyarrow is not installed.
    """
    pyarrow, parquet = _parquet()
    try:
        with parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names or not _is_text(file.schema_arrow.field(column).type):
                troubles.note(NO_COLUMN, f"{path.name}: no texts in {column!r}")
                return
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
            first = 0  # row of the group
            for group, size in enumerate(sizes):
                if first + size > start and (end is None or first < end):
                    row = first
                    for batch in file.iter_batches(ROWS, row_groups=[group], columns=[column]):
                        for text in batch.column(0).to_pylist():
                            if row >= start and (end is None or row < end):
                                yield text
                            row += 1
                first += size
    except pyarrow.ArrowException as error:
        raise OSError(str(error).splitlines()[0]) from None


def _is_text(kind: Any) -> bool:
    pyarrow, _ = _parquet()
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("parquet needs pyarrow, which is not here; pip install 'factorlm[ray]'") from None
    return pyarrow, pyarrow.parquet
