"""Scores of one table that several processes write, a part each."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from neroli.artefact import Manifest
from neroli.data.pictures import Pictures
from neroli.files import text_digest
from neroli.guard import Guard
from neroli.scale.blocks import BlockFolder
from neroli.scale.distributed import Workers
from neroli.scale.partition import shards
from neroli.scores import Summary, check_table_path, joined_tables, scored


def scored_together(
    workers: Workers,
    guard: Guard,
    pictures: Pictures,
    out: Path,
    key: str,
    manifest: Manifest,
    batch_size: int,
) -> Summary | None:
    """Write the table that ``neroli.scores.scored`` writes, every row once and in the same order.

    Args:
        workers: the processes, which share a file system; each scores its shard of the pictures,
            and goes on where it stopped if it was interrupted. The first writes the table.
        guard, batch_size, key, manifest: as of ``scored``.
        pictures: all of them.
        out: the table; parts lie in ``OUT.blocks`` until they are joined.

    Returns:
        what is in it; None on all processes but the first.

    Raises:
        InvalidInput: if ``out`` is no name of a table.
        ArtefactError: if it cannot be written.
        EngineError: if another process failed or has ended.
    """
    shard, first = workers.shard, workers.rank == 0
    folder = out.absolute().with_name(f"{out.name}.blocks")
    tables = {
        each: folder / f"{each.number:06d}.parquet"
        for each in shards(shard.of)
        if each.positions(len(pictures))
    }
    with ExitStack() as stack:
        with workers.agreed():
            check_table_path(out)
            if first:
                kept = stack.enter_context(BlockFolder(folder, text_digest([key, str(shard.of)])))
        if shard in tables and not tables[shard].exists():
            with workers.apart():
                part = pictures.subset(shard.positions(len(pictures)))
                scored(guard, part, tables[shard], f"{key} {shard}", manifest, batch_size)
        workers.wait()
        if not first:
            return None
        summary = joined_tables(list(tables.values()), out, manifest)
        kept.remove()
    return summary
