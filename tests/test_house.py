"""Imports run one way, rooms are entered by their faces, and nothing private is used outside compat."""

import ast
import re
from pathlib import Path

import pytest

from tests import support_table

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "customfit"

# From the top of the house to the ground. A room may import from those in rows below its own; within a room, a module
# may import from those that come after it.
ROOMS = {
    "__init__": "",
    "tools": "batch_size cross_validation ejection expressions learning_rate restoring seeds",
    "models": "model mixin predicting fitting on_batch overrides opening compiling remat blocks steps",
    "testing": "parity resume",
    "training": "loop session pauses plan costs checkpointing agreement chief dry_run validation evaluation prediction "
    "hooks checks limits signals stop progress observers",
    "debug clipping": "",
    "gradients": "pipeline update nonfinite undo step_updates step_dump metrics observers collector recorder schedules "
    "rates accumulation optimizers clipping layers",
    "checkpoint": "checkpointer checkpoints alike fingerprint differences options training_state releases regrouping "
    "variables random_state job_store store lock",
    "execution": "compiled_step prediction outputs xla graph dispatch random_ops pace sharding captures snapshot "
    "replicas trainable",
    "callbacks": "averaged_weights unfreeze gradient_events gradient_health prediction_metrics step_history one_cycle "
    "history throughput log_every early_stopping printing figures monitoring",
    "data": "make first datasets arrays shares iterators lengths iterables placement rows conversion stored weights "
    "source",
    "workers": "lost workers",
    "launch": "__main__ job worker cluster",
    "_show_versions": "",
    "serialization": "",
    "every": "",
    "tracebacks": "",
    "arguments": "",
    "compat": "errors fit callbacks data randomness steps optimizers updates captures graphs models devices types "
    "versions",
    "_version": "",
}
FLOORS = {room: floor for floor, rooms in enumerate(reversed(ROOMS)) for room in rooms.split()}
MODULES_OF = {room: modules.split() for rooms, modules in ROOMS.items() for room in rooms.split()}
ALLOWED = ("_compiled_steps", "_compiled_prediction", "_replace", "_fields")  # ours, and those of every NamedTuple


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def place(path):
    """The room of a module, and its name in there: `("data", "rows")`; of a flat module the first one only."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return (parts[0], parts[1] if len(parts) > 1 else None)


def imports(path):
    """(dotted module, imported names) of each import of ours, also within functions and strings of code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "customfit":
            yield node.module.split(".")[1:], [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("customfit") for alias in node.names), "write `from customfit...`"


def face(room):
    return ast.literal_eval(
        next(
            node.value
            for node in ast.parse((PACKAGE / room / "__init__.py").read_text()).body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        )
    )


each_module = pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))


@each_module
def test_rooms_import_from_rooms_below_by_their_faces(path):
    room, _ = place(path)
    for parts, names in imports(path):
        for other, *within in [parts] if parts else [[name] for name in names]:
            if other == room:
                continue
            assert FLOORS[other] < FLOORS[room], f"{room} imports {other}, which is not below it"
            is_face = room in ("clipping", "debug")  # of one room inside another
            if (PACKAGE / other).is_dir() and parts and not is_face:
                assert not within, f"import from the face of {other}, not from {'.'.join(parts)}"
                assert set(names) <= set(face(other)), f"not in the face of {other}: {names}"


@each_module
def test_within_a_room_imports_run_one_way(path):
    room, module = place(path)
    if module in (None, "__init__"):
        return
    order = MODULES_OF[room]
    assert module in order, f"say in ROOMS where {room}/{module}.py belongs"
    for parts, names in imports(path):
        if parts[:1] == [room]:
            for other in parts[1:2] or names:
                below = other == module or order.index(module) < order.index(other)
                assert below, f"{module} imports {other}, which comes before it in {room}"


@each_module
def test_a_module_is_one_idea(path):
    lines = len(path.read_text().splitlines())
    assert lines <= LONG.get(str(path.relative_to(PACKAGE)), 400)


LONG: dict = {}


def test_few_modules_lie_flat():
    assert len([path for path in PACKAGE.glob("*.py") if not path.name.startswith("_")]) <= 6


def test_every_room_says_what_it_is_for():
    for room in MODULES_OF:
        if (PACKAGE / room).is_dir():
            docstring = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
            assert docstring is not None, room


@each_module
def test_nothing_private_and_no_version_outside_compat(path):
    if place(path)[0] == "compat":
        return
    text = path.read_text()
    assert not re.search(r"(keras|tensorflow)[a-z_.]*\.(src|python)\b", text)
    assert "KERAS_VERSION" not in text
    assert "IS_KERAS_3" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            owner = ast.unparse(node.value)
            assert owner in ("self", "cls", "ModelType") or node.attr in ALLOWED, f"{owner}.{node.attr}"


def test_the_loop_fits_on_one_screen():
    assert len((PACKAGE / "training" / "loop.py").read_text().splitlines()) <= 50


def test_the_site_quotes_the_loop_as_it_is():
    loop = (PACKAGE / "training" / "loop.py").read_text()
    function = loop[loop.index("def run_epochs") :].strip()
    assert f"```python\n{function}\n```" in (ROOT / "docs" / "design" / "index.md").read_text()


def test_the_site_s_table_is_what_the_tests_cover():
    page = support_table.PAGE.read_text()
    begin, end = page.index(support_table.BEGIN) + len(support_table.BEGIN), page.index(support_table.END)
    assert page[begin:end] == support_table.table(), "run `python tests/support_table.py`"
