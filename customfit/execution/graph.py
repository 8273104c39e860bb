"""A block of steps in one graph call."""

from __future__ import annotations

from typing import Any, Callable

from customfit.compat import tf
from customfit.data import Block, map_leaves


class LoopStep:
    """A step as the body of a loop in a graph.

    Args:
        step: A graph function from a batch to a dict of logs.
        results: What gives the logs where they are the metrics' results and nothing else. They are then computed once,
            at the end of a block. `None`: the logs are what the last step returned.
    """

    def __init__(self, step: Any, results: Callable[[], dict] | None):
        self._step = step
        self._results = results

    def __call__(self, batch: Any) -> Any:
        """Runs the step. Returns what the loop carries to the next one."""
        logs = self._step(batch)
        return logs if self._results is None else ()

    def before(self, batch: Callable[[], Any]) -> tuple[Any, Any]:
        """What the loop carries into its first step, and the shapes that it may come to have.

        Args:
            batch: Gives a batch or its spec; not called where the loop carries nothing.
        """
        if self._results is not None:
            return (), ()
        logs = self._step.get_concrete_function(map_leaves(_spec, batch())).structured_outputs
        return tf.nest.map_structure(_zeros, logs), tf.nest.map_structure(lambda log: log.shape, logs)

    def logs(self, carried: Any) -> dict:
        """The logs of the block, from what its last step has carried."""
        return carried if self._results is None else self._results()


class GraphBlocks:
    """Runs blocks of steps, each in one call, and traces once for each kind of data.

    The step is in a graph once, within its loop: Keras 2's dropout keeps its random state in the op, so a second copy
    of the step would draw the first one's numbers again. For the same reason a block of one step is a loop, too.

    Args:
        step: The step to loop over.
    """

    def __init__(self, step: LoopStep):
        self._step = step
        self._functions: dict = {}

    def run(self, block: Block) -> dict | None:
        """Runs the steps of a block and notes in `block.done` how many there were."""
        if not block.may_end:
            block.done = block.count
            first, end = tf.constant(block.first), tf.constant(block.first + block.count)
            return self._function(self._steps, block.fetch)(block.feed, first, end)
        batch = block.get_next_as_optional()
        if not batch.has_value():
            return None
        done, logs = self._function(self._steps_until_the_end, block.fetch)(block.feed, batch, tf.constant(block.count))
        block.done = int(done)
        return logs

    def _steps(self, fetch, feed, first, end):
        carried, shapes = self._step.before(
            lambda: tf.function(fetch).get_concrete_function(feed, first).structured_outputs
        )
        _, carried = tf.while_loop(
            lambda index, _: index < end,
            lambda index, _: (index + 1, self._step(fetch(feed, index))),
            (first, carried),
            shape_invariants=(first.shape, shapes),
            parallel_iterations=1,
        )
        return self._step.logs(carried)

    def _steps_until_the_end(self, fetch, feed, batch, count):
        """Looks for each batch before its step: one that finds none would still move `iterations` and random seeds."""
        nothing = tf.experimental.Optional.empty(batch.element_spec)
        carried, shapes = self._step.before(lambda: batch.element_spec)

        def one_step(done, batch, _):
            carried = self._step(batch.get_value())
            done += 1
            return done, tf.cond(done < count, lambda: fetch.get_next_as_optional(feed), lambda: nothing), carried

        done, _, carried = tf.while_loop(
            lambda done, batch, _: batch.has_value(),
            one_step,
            (tf.constant(0), batch, carried),
            shape_invariants=(tf.TensorShape([]), tf.type_spec_from_value(batch), shapes),
            parallel_iterations=1,
        )
        return done, self._step.logs(carried)

    def _function(self, steps: Callable, fetch: Callable) -> Callable:
        key = steps.__name__, fetch
        if key not in self._functions:

            def fetch_and_step(*args):
                return steps(fetch, *args)

            self._functions[key] = tf.function(fetch_and_step, reduce_retracing=True, autograph=False)
        return self._functions[key]


def _zeros(log: Any) -> tf.Tensor:
    """Zeros that may stand for a log in a loop: of its dtype, and of its shape as far as that is known."""
    return tf.zeros([size or 0 for size in log.shape] if log.shape.rank is not None else [], log.dtype)


def _spec(leaf: Any) -> tf.TypeSpec:
    return leaf if isinstance(leaf, tf.TypeSpec) else tf.type_spec_from_value(leaf)
