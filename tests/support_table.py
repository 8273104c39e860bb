"""The site's table of what is supported: a line for each `supports` mark of the tests that cover it.

`python tests/support_table.py` writes it; `tests/test_house.py` fails where the page has another one.

A mark is `supports(group, what, fit="yes", keras=None)`: which `fit()` has it, and the only generation that has it.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "supported.md"
BEGIN, END = "<!-- support table: python tests/support_table.py -->\n", "<!-- end of support table -->\n"


def marks():
    """(group, what, fit, keras) of every mark, in the order of the tests."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in sorted(calls, key=lambda call: call.lineno):
            if ast.unparse(call.func).split(".")[-1] == "supports":
                options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
                group, what = map(ast.literal_eval, call.args)
                yield group, what, options.get("fit", "yes"), options.get("keras")


def table():
    """The table, as Markdown."""
    lines = ["| | | `fit()` | `custom_fit()` |", "|---|---|---|---|"]
    last = None
    for group, what, fit, keras in sorted(dict.fromkeys(marks()), key=lambda mark: ORDER.index(mark[0])):
        only = f"Keras {keras}" if keras else "yes"
        lines.append(f"| {group if group != last else ''} | {what} | {only if fit == 'yes' else fit} | {only} |")
        last = group
    return "\n".join(lines) + "\n"


ORDER = ["Data", "Validation", "Models", "Callbacks", "compile()", "Prediction", "Distribution", "Saving", "Resume"]


def main():
    """Writes the table into its page."""
    text = PAGE.read_text()
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    PAGE.write_text(head + table() + tail)


if __name__ == "__main__":
    main()
