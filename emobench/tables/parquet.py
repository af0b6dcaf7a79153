"""Writing a table to Parquet piece by piece, and from there to CSV."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from emobench.tables.columns import Column
from emobench.tables.table import METADATA_KEY, arrow_schema


class TableWriter:
    """One Parquet file; pieces are gathered into row groups of about `rows` rows.

    Raises OSError where the disk refuses; the file is then of no use.
    """

    def __init__(self, path: Path, columns: Sequence[Column], rows: int) -> None:
        import pyarrow.parquet as pq

        self.path, self.rows = path, rows
        self.schema = arrow_schema(columns)
        names = [c.name for c in columns if c.kind == "category"]
        self._writer = pq.ParquetWriter(
            path, self.schema, compression="zstd", compression_level=1, use_dictionary=names
        )
        self._waiting: list[Any] = []
        self._count = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            with self.path.open("rb") as stream:
                os.fsync(stream.fileno())

    def add(self, table: Any) -> None:
        self._waiting.append(table)
        self._count += table.num_rows
        if self._count >= self.rows:
            self._flush()

    def describe(self, metadata: dict[str, Any]) -> None:
        """Keep `metadata` as JSON in the file's own metadata."""
        text = json.dumps(metadata, ensure_ascii=False)
        self._writer.add_key_value_metadata({METADATA_KEY.decode(): text})

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            table = pa.concat_tables(self._waiting).unify_dictionaries()
            self._writer.write_table(table, row_group_size=2 * self.rows)
        self._waiting, self._count = [], 0


def write_csv(parquet: Path, path: Path) -> None:
    """The same rows and columns as CSV: a missing value is an empty field, times are UTC."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    file = pq.ParquetFile(parquet)
    schema = pa.schema([(f.name, _plain(f.type)) for f in file.schema_arrow])
    with path.open("wb") as stream:
        with csv.CSVWriter(stream, schema) as writer:
            for batch in file.iter_batches(batch_size=2**16):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
        stream.flush()
        os.fsync(stream.fileno())


def _plain(kind: Any) -> Any:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind
