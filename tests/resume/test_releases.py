"""A run that was cut off on one release of Keras is resumed on another, and ends as it would have there."""

import json
import shutil

import numpy as np
import pytest

from customfit import compat
from tests.resume.releases import CUT, RUNS, SAVED, end_of, train

GENERATION_OF = {"keras2.12": 2, "keras2.15": 2, "keras2.21": 2, "keras3.3": 3, "keras3.15": 3}
SAME = [name for name, generation in GENERATION_OF.items() if generation == compat.GENERATION]
OTHER = [name for name in GENERATION_OF if name not in SAME]
supports = pytest.mark.supports


def copy(writer, name, tmp_path):
    return shutil.copytree(SAVED / writer / name, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("end.npz"))


@supports("Resume", "checkpoints of another release of the same Keras generation", fit="no")
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("writer", SAME)
def test_a_run_of_another_release_is_resumed(writer, name, tmp_path, capsys):
    """It ends to the bit as on the release that it was cut off on, where that one computes as this one does."""
    resumed = end_of(*train(name, copy(writer, name, tmp_path), verbose=2))
    assert f"Resuming from {tmp_path / 'checkpoint'}: epoch 2 of 3, after step {CUT - 5}." in capsys.readouterr().out
    here = end_of(*train(name))
    with np.load(SAVED / writer / name / "end.npz") as saved:
        there = {key: saved[key] for key in saved}
    assert list(resumed) == list(there)
    if all(np.array_equal(here[key], there[key]) for key in there):
        assert all(np.array_equal(resumed[key], there[key]) for key in there)
        return
    # Releases of TensorFlow, and other processors, round in other places; `recurrent` says what else differs.
    for key in resumed.keys() - {"history"}:
        np.testing.assert_allclose(resumed[key], there[key], rtol=1e-4, atol=1e-5)
    mine, its = (json.loads(str(each["history"])) for each in (resumed, there))
    assert mine.keys() == its.keys()
    for metric in its:
        np.testing.assert_allclose(mine[metric], its[metric], rtol=1e-4, atol=1e-5)


def test_there_are_files_of_this_release_or_of_its_neighbours():
    assert {path.name for path in SAVED.iterdir() if (path / "plain").is_dir()} == set(GENERATION_OF)
    assert SAME


@pytest.mark.parametrize("writer", OTHER)
def test_the_other_generation_is_refused_by_name(writer, tmp_path):
    here = compat.keras_release().split()[1]
    with pytest.raises(ValueError, match=rf"written with \w+ \d.*{here}: Keras \d cannot resume a run of Keras \d$"):
        train("plain", copy(writer, "plain", tmp_path))
