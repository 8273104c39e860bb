"""The processes that train one model together: which of them this one is, and how they agree.

A `Workers` belongs to a strategy and owns no state but its traces. Whatever all workers must decide alike goes through
it: where an epoch ends, whether to stop, from which checkpoint to resume. Its calls are collective: all workers make
the same ones in the same order. Where there is one process they cost nothing. If one of them ends or hangs, the others
raise a `WorkerLostError`.
"""

from customfit.workers.lost import WorkerLostError, names_lost_workers
from customfit.workers.workers import Workers

__all__ = ["WorkerLostError", "Workers", "names_lost_workers"]
