"""Any input that `fit()` takes, as a `Source` of blocks of steps.

A source owns its position: the order of the epoch, the next batch, and what must be read again after a resume. It knows
nothing of models or steps; who runs a block says in `block.done` how far it got.
"""

from customfit.data.arrays import ArraySource
from customfit.data.datasets import DatasetSource
from customfit.data.first import FirstBatches
from customfit.data.make import check_worker_options, make_source, make_validation_sources
from customfit.data.rows import count_batch_rows, map_leaves, split_rows
from customfit.data.source import Block, Fetch, ResumableSource, SingleBatch, Source

__all__ = [
    "ArraySource",
    "Block",
    "DatasetSource",
    "Fetch",
    "FirstBatches",
    "ResumableSource",
    "SingleBatch",
    "Source",
    "check_worker_options",
    "count_batch_rows",
    "make_source",
    "make_validation_sources",
    "map_leaves",
    "split_rows",
]
