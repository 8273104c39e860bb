"""Every block of code of the README, of the site and of docstrings runs; and the site has every public name."""

import ast
import contextlib
import doctest
import functools
import inspect
import io
import re
import types
from pathlib import Path

import pytest

import customfit
from customfit.compat import keras, tf

ROOT = Path(__file__).parent.parent
ASSUMED = ROOT / "docs" / "guides" / "assumed.py"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "customfit").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts and "gallery" not in page.parts]
FENCE = re.compile(r"^( *)```(?:python|\{code-cell\})\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
NOT_RUN = "# not run: "  # at the top of a block, with the reason
QUICK = ("README.md", "start.md", "resume.md", "hand_written_loop.md")  # the other pages are slow, together

# Names that other modules of customfit import from these rooms, not for users.
INTERNAL = {
    "callbacks": "Axes GradientEvents make_early_stopping new_axes print_line score_of unknown_monitor",
    "data": "Batch BatchSpec DatasetSource Feed FirstBatches as_single_batch check_resumable count_batch_rows "
    "default_batch_size inputs_left_out_as_none is_source make_evaluation_source make_source make_validation_source "
    "map_leaves part_of_batch read_first split_rows validation_arguments",
}


def blocks(page):
    """(line, code) of each block of Python on a page."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        code = "\n".join(line[len(found[1]) :] for line in found[2].splitlines() if not line.startswith(":tags:"))
        yield text.count("\n", 0, found.start(2)) + 1, code


def run(code, path, line, names):
    """Runs code as if it stood in a file at a line, so that a traceback shows it."""
    exec(compile("\n" * (line - 1) + code, str(path), "exec"), names)


def assumed():
    """The names that the guides begin with."""
    pytest.importorskip("sklearn")
    keras.utils.set_random_seed(0)
    names = {"__name__": "page"}
    run(ASSUMED.read_text(), ASSUMED, 1, names)
    return names


def pages():
    for page in PAGES:
        if list(blocks(page)):
            marks = [] if page.name in QUICK else [pytest.mark.slow, pytest.mark.site]
            yield pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)  # it would hold for all tests
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", pages())
def test_the_code_of_a_page_runs(page):
    names = assumed()
    for line, code in blocks(page):
        if NOT_RUN in code.partition("\n")[0] or page.name in ("LAUNCHING.md", "index.md"):
            compile(code, str(page), "exec")  # it needs a cluster, or is quoted
        else:
            run(code, page, line, names)


def quoted(page):
    """The code that a page includes from an example, in its order."""
    for path, options in re.findall(
        r"^```\{literalinclude\} (\S+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
    ):
        text = (page.parent / path).read_text()
        options = dict(re.findall(r"^:([\w-]+): (.*)$", options, re.MULTILINE))
        if "pyobject" in options:
            nodes = {node.name: node for node in ast.parse(text).body if hasattr(node, "name")}
            yield ast.get_source_segment(text, nodes[options["pyobject"]])
        else:
            lines = text.splitlines()
            first = next(i for i, line in enumerate(lines) if options["start-at"] in line)
            last = next(i for i, line in enumerate(lines) if i >= first and options["end-at"] in line)
            yield "\n".join(lines[first : last + 1])


@pytest.mark.slow
@pytest.mark.site
@pytest.mark.usefixtures("_elsewhere")
def test_learn_runs_as_a_reader_copies_it(capsys):
    pytest.importorskip("sklearn")
    names = {"__name__": "page"}
    for code in quoted(ROOT / "docs" / "learn.md"):
        exec(compile(code, "learn.md", "exec"), names)
    for step in range(2, 8):
        names[f"step_{step}"]()
        assert f"Step {step}: the weights are equal to the last bit." in capsys.readouterr().out


def documented():
    """(name, docstring) of the package's functions, classes and methods that have examples."""
    for path in sorted((ROOT / "customfit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                docstring = ast.get_docstring(node) or ""
                if ">>>" in docstring or "```python" in docstring:
                    yield pytest.param(node.name, docstring, id=node.name)


def names_of_docstrings():
    """What docstrings take for granted: a model, data, and parts of one's own."""
    names = assumed()
    names.update({name: getattr(customfit, name) for name in customfit.__all__})
    names.update({name: getattr(customfit.clipping, name) for name in customfit.clipping.__all__})
    x, y = names["x"], names["y"]
    inputs = hidden = keras.Input((64,))
    for block in ("encoder", "block3", "block4", "block5"):
        hidden = keras.layers.Dense(16, activation="relu", name=block)(hidden)
    outputs = keras.layers.Dense(10, activation="softmax", name="head")(hidden)
    model = customfit.CustomTrainModel(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    names.update(
        Adam=keras.optimizers.Adam,
        ArraySource=customfit.data.ArraySource,
        Block=customfit.data.Block,
        Path=Path,
        SGD=keras.optimizers.SGD,
        SingleBatch=customfit.data.SingleBatch,
        Theirs=type("Theirs", (keras.Model,), {}),
        build_model=names["build"],
        build_my_model=names["build"],
        check_parity=customfit.testing.check_parity,
        check_resume=customfit.testing.check_resume,
        dataset=tf.data.Dataset.from_tensor_slices((x, y)).batch(32),
        inputs=inputs,
        GradientHealth=customfit.callbacks.GradientHealth,
        make_batch=lambda level: (tf.constant(x[:32]), tf.constant(y[:32])),
        metrics=types.SimpleNamespace(results={"confusion": [[3, 1], [0, 4]]}),  # of a `PredictionMetrics`
        model=model,
        my_batches=lambda epoch: [(x[:32], y[:32])],
        outputs=outputs,
        x_test=names["x_val"],
        xv=names["x_val"],
        y_test=names["y_val"],
        yv=names["y_val"],
    )
    return names


def words(text):
    """The words of an output. Its numbers, and in tables the order of its columns, are not promised."""
    return sorted(re.findall(r"[^\W\d]{2,}", text))


VARIES = ("AveragedWeights", "Throughput")  # what is printed depends on the run
CANNOT_RUN = {
    "find_batch_size": "it starts a process, which imports `build`",
    "replay": "there is no such step",
    "percentile_of_history": "it is internal",
}


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "docstring"), documented())
def test_the_code_of_a_docstring_runs(name, docstring, monkeypatch):
    if name in CANNOT_RUN:
        pytest.skip(CANNOT_RUN[name])
    network = functools.partial(keras.applications.MobileNetV2, (32, 32, 3), weights=None)  # no download
    monkeypatch.setattr(keras.applications, "MobileNetV2", network)
    names = names_of_docstrings()
    for found in FENCE.finditer(docstring):
        run(found[2], name, 1, names)
    for example in doctest.DocTestParser().get_examples(docstring):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(example.source, name, "single"), names)
        if example.want and name not in VARIES:
            assert words(example.want) == words(printed.getvalue())


def public_names():
    """Names that users may use, with where they find them."""
    rooms = {"customfit": customfit}
    for room in ("callbacks", "clipping", "data", "debug", "testing"):
        rooms[f"customfit.{room}"] = getattr(customfit, room)
    for prefix, room in rooms.items():
        for name in room.__all__:
            is_room = inspect.ismodule(getattr(room, name))
            if not is_room and name not in INTERNAL.get(prefix.partition(".")[2], "").split():
                yield f"{prefix}.{name}"


def test_the_reference_has_every_public_name():
    reference = {page.name: page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md")}
    public = set(public_names())
    listed = set(re.findall(r"^   (customfit\.[\w.]+)$", reference["index.md"], re.MULTILINE))
    assert listed | {"customfit.__version__"} == public
    described = set(re.findall(r"^\.\. auto\w+:: (customfit\.[\w.]+)$", "\n".join(reference.values()), re.MULTILINE))
    assert described | {"customfit.callbacks.EarlyStopping"} == listed


def test_internal_names_are_names():
    for room, names in INTERNAL.items():
        assert set(names.split()) <= set(getattr(customfit, room).__all__)
