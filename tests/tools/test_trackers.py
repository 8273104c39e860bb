"""Experiment trackers write the values of `fit` under `custom_fit`: those of the last epoch, or of each."""

import json
import os
import zipfile

import pytest

from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, compiled

pytestmark = pytest.mark.tools
X, Y = models.rows(64)


def trained(how, callbacks):
    """Trains for two epochs with shuffled rows off, and returns the History."""
    keras.utils.set_random_seed(SEED)
    model = compiled(models.dense)
    given = {"epochs": 2, "batch_size": 16, "verbose": 0, "shuffle": False, "validation_data": (X, Y)}
    return getattr(model, how)(X, Y, callbacks=callbacks, **given).history


def tensorboard(folder, how):
    pytest.importorskip("tensorboard")
    from tensorboard.plugins.hparams import api

    logs = os.fspath(folder)
    trained(how, [keras.callbacks.TensorBoard(logs), api.KerasCallback(logs, {"rate": 0.01})])
    values = {}
    for path in sorted(folder.rglob("events.*")):
        for record in tf.data.TFRecordDataset(os.fspath(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag.startswith(("epoch_", "_hparams_")):
                    tensor = value.tensor if value.tag.startswith("epoch_") else None
                    values[os.fspath(path.parent.relative_to(folder)), value.tag, event.step] = (
                        None if tensor is None else float(tf.make_ndarray(tensor))
                    )
    return values


def mlflow(folder, how):
    mlflow = pytest.importorskip("mlflow")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    mlflow.set_tracking_uri(f"file://{folder}/runs")
    with mlflow.start_run() as run:
        trained(how, [mlflow.tensorflow.MlflowCallback()])
    client = mlflow.MlflowClient()
    names = client.get_run(run.info.run_id).data.metrics
    return {name: [each.value for each in client.get_metric_history(run.info.run_id, name)] for name in names}


def wandb(folder, how):
    wandb = pytest.importorskip("wandb")
    from wandb.integration.keras import WandbMetricsLogger

    with wandb.init(mode="offline", dir=folder, project="tools", settings=wandb.Settings(silent=True)) as run:
        trained(how, [WandbMetricsLogger()])
        return {name: value for name, value in dict(run.summary).items() if name.startswith("epoch/")}


def comet(folder, how):
    comet_ml = pytest.importorskip("comet_ml")
    experiment = comet_ml.OfflineExperiment(
        project_name="tools", offline_directory=os.fspath(folder), log_code=False, log_env_details=False
    )
    trained(how, [experiment.get_callback("keras")])
    experiment.end()
    (path,) = folder.glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        lines = [json.loads(line) for line in archive.read("messages.json").decode().splitlines()]
    found = [line["payload"].get("metric") for line in lines if line["type"] == "metric_msg"]
    keep = ("loss", "accuracy")
    return [
        (each["metricName"], float(each["metricValue"]))
        for each in found
        if each and each["metricName"].endswith(keep) and "batch" not in each["metricName"]
    ]


def aim(folder, how):
    aim = pytest.importorskip("aim")
    from aim.keras import AimCallback

    callback = AimCallback(repo=os.fspath(folder), system_tracking_interval=None)
    trained(how, [callback])
    hash_of_run = callback.experiment.hash
    callback.close()
    run = aim.Run(hash_of_run, repo=os.fspath(folder), system_tracking_interval=None)  # one to read needs aim's server
    values = {
        (name, str(context.to_dict())): [float(value) for value in run.get_metric(name, context).values.values_list()]
        for name, context, _ in run.iter_metrics_info()
    }
    run.close()
    return values


def dvclive(folder, how):
    dvclive = pytest.importorskip("dvclive")
    from dvclive.keras import DVCLiveCallback

    with dvclive.Live(os.fspath(folder), save_dvc_exp=False, report=None) as live:
        trained(how, [DVCLiveCallback(live=live)])
    files = sorted((folder / "plots" / "metrics").rglob("*.tsv"))
    return {os.fspath(path.relative_to(folder)): path.read_text() for path in files}


def tqdm(folder, how):
    tqdm_keras = pytest.importorskip("tqdm.keras")
    shown = []

    class Bar(tqdm_keras.tqdm_auto):
        def set_postfix(self, values, **kwargs):
            shown.append(dict(values))
            super().set_postfix(values, **kwargs)

    with open(os.devnull, "w") as nowhere:
        trained(how, [tqdm_keras.TqdmCallback(verbose=0, tqdm_class=Bar, file=nowhere)])
    return [each for each in shown if "val_loss" in each]


def clearml(folder, how):
    clearml = pytest.importorskip("clearml")
    clearml.Task.set_offline(True)
    (folder / "requirements.txt").touch()  # which it would find out from all files of the repository
    clearml.Task.force_requirements_env_freeze(True, os.fspath(folder / "requirements.txt"))
    task = clearml.Task.init("tools", how, auto_connect_frameworks={"tensorflow": True}, auto_resource_monitoring=False)
    trained(how, [keras.callbacks.TensorBoard(os.fspath(folder / "logs"))])
    task.flush(wait_for_uploads=True)
    session = task.get_offline_mode_folder()
    task.close()
    values = {}
    for line in (session / "metrics.jsonl").read_text().splitlines():
        for event in json.loads(line):
            if event.get("type") == "training_stats_scalar" and "epoch_" in event["metric"]:
                values[event["metric"], event["variant"], event["iter"]] = event["value"]
    return values


TRACKERS = [tensorboard, mlflow, wandb, comet, clearml, aim, dvclive, tqdm]


@pytest.mark.parametrize("values_of", TRACKERS, ids=lambda function: function.__name__)
def test_a_tracker_writes_the_values_of_fit(values_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    values = {}
    for how in ("fit", "custom_fit"):
        (tmp_path / how).mkdir()
        values[how] = values_of(tmp_path / how, how)
    assert values["custom_fit"] == values["fit"]
    assert len(values["fit"]) >= 2
