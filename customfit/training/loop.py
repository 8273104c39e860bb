"""The epoch loop."""

from __future__ import annotations

from customfit.compat import keras
from customfit.data import Source
from customfit.training.session import TrainingSession


def run_epochs(session: TrainingSession, train_data: Source) -> keras.callbacks.History:
    """Trains a session's model: epochs of steps, validation after each, until the last one or an early stop."""
    with session:  # on_train_begin; whatever happens, on_train_end
        for epoch in session.epochs(train_data):  # metrics start from zero, on_epoch_begin
            for block in train_data.blocks(session.block_size):
                session.train_block(block)  # train_step, between its hooks
                if session.should_stop:
                    break
            if session.validates(epoch):
                session.validate()  # test_step over the validation data
            session.end_epoch()  # on_epoch_end: History, callbacks, early stopping
    return session.history
