"""Rows that do not fit into memory at once: written to disk part by part, read batch by batch or column by column."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

_BATCH_ROWS = 250_000


class ScratchRows:
    """The rows of some tables, one behind the other, in a file; equal to a table of the same rows.

    Tables are added while its context lasts, one at least; the rows can be read after that, as often as one likes.
    """

    schema: pa.Schema

    def __init__(self, file: Path) -> None:
        """Nothing is written before the first table."""
        self.folder, self._file, self.num_rows = file.parent, str(file), 0
        self._writer: pa.RecordBatchFileWriter | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, rows: pa.Table) -> None:
        """Write a table behind those before it, in the types of the first."""
        if self._writer is None:
            self.schema = rows.schema
            packed = pa.ipc.IpcWriteOptions(compression="lz4")
            sink = self._open.enter_context(pa.OSFile(self._file, "wb"))
            self._writer = self._open.enter_context(pa.ipc.new_file(sink, self.schema, options=packed))
        self._writer.write_table(rows.cast(self.schema), _BATCH_ROWS)
        self.num_rows += rows.num_rows

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @property
    def columns(self) -> Iterator[pa.ChunkedArray]:
        """One column after the other, each read alone."""
        for place in range(len(self.schema)):
            chosen = pa.ipc.IpcReadOptions(included_fields=[place])
            with pa.OSFile(self._file) as source:
                yield pa.ipc.open_file(source, options=chosen).read_all().column(0)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in their order."""
        with pa.OSFile(self._file) as source:
            reader = pa.ipc.open_file(source)
            for place in range(reader.num_record_batches):
                yield reader.get_batch(place)

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows in their order, for libraries that take a stream."""
        return pa.RecordBatchReader.from_batches(self.schema, self.to_batches())


Rows = pa.Table | ScratchRows
