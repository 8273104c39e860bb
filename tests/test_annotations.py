"""Annotations of what is public say what they mean. `Any` stands only where any object really is taken."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "customfit"
MOST = 0.08  # of the arguments and results of public functions and methods


def public_functions(tree, inside=""):
    """(name, definition) of each function and method without a leading underscore, and of `__init__` and its kin."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node, f"{inside}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name.endswith("__")):
            yield inside + node.name, node


def annotations(function):
    """(argument, annotation) of a function, and of its result as the argument "return"."""
    given = function.args
    for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]:
        if argument is not None and argument.arg not in ("self", "cls"):
            yield argument.arg, argument.annotation
    if function.name != "__init__":
        yield "return", function.returns


def says_nothing(annotation):
    """Whether a type checker reads it as `Any`, which it does where there is none at all."""
    return annotation is None or ast.unparse(annotation) in ("Any", "typing.Any")


def test_few_public_annotations_say_nothing():
    total, empty = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, function in public_functions(ast.parse(path.read_text())):
            for argument, annotation in annotations(function):
                total += 1
                if says_nothing(annotation):
                    empty.append(f"{path.relative_to(PACKAGE)}: {name}({argument})")
    share = len(empty) / total
    assert share <= MOST, f"{share:.1%} of {total} annotations are `Any` or missing:\n" + "\n".join(empty)
