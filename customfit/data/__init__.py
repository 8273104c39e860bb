"""Any input that `fit()` takes, as a `Source` of blocks of steps.

A source owns its position: the order of the epoch, the next batch, and what must be read again after a resume. It knows
nothing of models or steps; whoever runs a block sets `block.done` to say how far it got.
"""

from customfit.data.arrays import ArraySource
from customfit.data.datasets import DatasetSource
from customfit.data.first import FirstBatches, read_first
from customfit.data.make import (
    as_single_batch,
    default_batch_size,
    make_evaluation_source,
    make_source,
    make_validation_source,
    validation_arguments,
)
from customfit.data.rows import count_batch_rows, map_leaves, part_of_batch, split_rows
from customfit.data.source import (
    Batch,
    BatchSpec,
    Block,
    Feed,
    Fetch,
    ResumableSource,
    SingleBatch,
    Source,
    check_resumable,
    get_batch,
    inputs_left_out_as_none,
    is_source,
)

__all__ = [
    "ArraySource",
    "Batch",
    "BatchSpec",
    "Block",
    "DatasetSource",
    "Feed",
    "Fetch",
    "FirstBatches",
    "ResumableSource",
    "SingleBatch",
    "Source",
    "as_single_batch",
    "check_resumable",
    "count_batch_rows",
    "default_batch_size",
    "get_batch",
    "inputs_left_out_as_none",
    "is_source",
    "make_evaluation_source",
    "make_source",
    "make_validation_source",
    "map_leaves",
    "part_of_batch",
    "read_first",
    "split_rows",
    "validation_arguments",
]
