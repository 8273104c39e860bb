"""`cross_validate`: every row is held out once, and each fold is the training run that one would write by hand."""

import numpy as np
import pytest

from customfit import CustomTrainModel, cross_validate
from customfit.compat import keras
from tests.parity import models
from tests.parity.compare import compiled

model_selection = pytest.importorskip("sklearn.model_selection")

X, Y = models.rows(60)


def build():
    return compiled(models.dropout, optimizer="adam")


def validate(**options):
    return cross_validate(build, X, Y, **{"cv": 3, "epochs": 2, "batch_size": 16, **options})


def test_a_fold_is_the_training_run_by_hand():
    found = validate()
    splitter = model_selection.StratifiedKFold(3, shuffle=True, random_state=0)
    for fold, (train, held) in enumerate(splitter.split(X, Y)):
        keras.utils.set_random_seed(0)
        model = build()
        history = model.custom_fit(
            X[train], Y[train], epochs=2, batch_size=16, validation_data=(X[held], Y[held]), verbose=0
        )
        assert history.history == found.histories[fold]
        assert model.custom_evaluate(X[held], Y[held], 16, verbose=0, return_dict=True) == found.folds[fold]
        np.testing.assert_array_equal(found.held_out[fold], held)


def test_every_row_is_held_out_once_and_groups_stay_together():
    groups = np.arange(60) // 5
    found = validate(cv=model_selection.GroupKFold(4), groups=groups, epochs=1)
    assert sorted(np.concatenate(found.held_out)) == list(range(60))
    for held in found.held_out:
        assert np.isin(groups[held], groups[np.setdiff1d(np.arange(60), held)]).sum() == 0


def test_the_table_has_mean_and_deviation():
    found = validate(epochs=1)
    values = [fold["loss"] for fold in found.folds]
    assert found.mean["loss"] == pytest.approx(np.mean(values))
    assert found.deviation["loss"] == pytest.approx(np.std(values, ddof=1))
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["fold", "1", "2", "3", "mean", "deviation"]
    assert f"{found.mean['accuracy']:.4f}" in lines[4]


@pytest.mark.long
def test_processes_find_the_same():
    alone, together = validate(cv=2, epochs=1), validate(cv=2, epochs=1, processes=2)
    assert together.folds == alone.folds
    assert together.histories == alone.histories


def test_a_call_that_was_cut_off_trains_what_is_left(tmp_path):
    trained = []

    class Counts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            trained.append(epoch)
            if len(trained) == 5 and self.cuts:
                raise KeyboardInterrupt

    def run(cuts):
        Counts.cuts = cuts
        return validate(epochs=3, checkpoint=tmp_path / "cv", callbacks=lambda: [Counts()])

    with pytest.raises(KeyboardInterrupt):
        run(cuts=True)  # in the second epoch of the second fold
    resumed = run(cuts=False)
    assert trained == [0, 1, 2, 0, 1, 1, 2, 0, 1, 2]
    assert sorted(path.name for path in (tmp_path / "cv").iterdir()) == ["fold-1", "fold-2", "fold-3"]
    alone = validate(epochs=3, callbacks=lambda: [Counts()])
    assert resumed.folds == alone.folds
    assert resumed.histories == alone.histories


def test_frames_dicts_and_weights():
    pandas = pytest.importorskip("pandas")
    weights = np.linspace(0.5, 1.5, 60)
    frame = cross_validate(build, pandas.DataFrame(X), pandas.Series(Y), 2, epochs=1, sample_weight=weights)
    arrays = cross_validate(build, X, Y, 2, epochs=1, sample_weight=weights)
    assert frame.folds == arrays.folds
    two = {"left": X[:, :4], "right": X[:, 4:]}
    found = cross_validate(lambda: compiled(models.two_inputs), two, Y, 2, epochs=1)
    assert set(found.folds[0]) == {"loss", "accuracy"}
    assert isinstance(build(), CustomTrainModel)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`cv` must be a number of folds, 2 or more.*Received: cv=1"):
        validate(cv=1)
    with pytest.raises(ValueError, match="must be arrays, frames or tensors"):
        cross_validate(build, iter([]), Y)
    with pytest.raises(ValueError, match="at least one split"):
        validate(cv=[])
