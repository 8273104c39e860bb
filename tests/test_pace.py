"""Blocks take about as long as they should, whatever a step takes."""

import pytest

from customfit.execution import Pace


def settle(pace, step_seconds, blocks=20):
    for _ in range(blocks):
        pace.record(pace.steps, pace.steps * step_seconds)
    return pace.steps


@pytest.mark.parametrize(
    ("step_seconds", "steps"), [(1e-4, 1000), (1e-3, 100), (0.03, 3), (0.1, 1), (5.0, 1), (1e-9, Pace.MAX_STEPS)]
)
def test_a_block_takes_a_tenth_of_a_second(step_seconds, steps):
    assert settle(Pace(), step_seconds) == pytest.approx(steps, abs=1)


def test_the_first_block_traces_and_is_not_counted():
    pace = Pace()
    pace.record(1, 30.0)
    pace.record(1, 1e-3)
    assert pace.steps > 10


def test_it_follows_a_step_that_becomes_slower_and_faster():
    pace = Pace()
    assert settle(pace, 1e-3) == pytest.approx(100, abs=1)
    assert settle(pace, 1e-2, blocks=2) == pytest.approx(10, abs=1)
    assert settle(pace, 1e-3, blocks=2) == pytest.approx(100, abs=1)


def test_it_grows_by_leaps_but_not_all_the_way():
    pace = Pace()
    pace.record(1, 1.0)
    pace.record(1, 1e-9)
    assert 1 < pace.steps < 100


def test_the_short_last_block_of_an_epoch_does_not_shorten_the_next():
    pace = Pace()
    settle(pace, 1e-3)
    pace.record(2, 2e-3)
    assert pace.steps == pytest.approx(100, abs=1)


def test_a_block_without_data_teaches_nothing():
    pace = Pace()
    settle(pace, 1e-3)
    steps = pace.steps
    pace.record(0, 1.0)
    assert pace.steps == steps
