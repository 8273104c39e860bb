"""Prints, as Markdown, what holds under any step. `python -m tests.promise_tables`; the tests it names hold each cell.

The cells are those of `tests/resume/test_state_anywhere.py` and `tests/parity/test_own_step_options.py`.
"""

from tests.parity.test_own_step_options import OPTIONS, STEPS
from tests.resume.test_state_anywhere import CANNOT, PLACES, THINGS, TRACKED, Table


def outcome(thing, place):
    """What becomes of a run that is cut off: `test_state_is_resumed_wherever_it_is_kept_or_is_refused`."""
    refused = thing in CANNOT and not (thing is Table and place in TRACKED)
    return "refused" if refused else "resumed"


def markdown(corner, rows, columns, cell):
    """A table, a line for each row."""
    lines = [f"| {' | '.join([corner, *columns])} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {' | '.join([name, *(cell(row, column) for column in columns)])} |" for name, row in rows.items()]
    return "\n".join(lines)


def main():
    """Prints both tables."""
    things = {thing.__name__: thing for thing in THINGS}
    print(markdown("what a step uses, kept in", things, list(PLACES), outcome))
    print()
    print(
        markdown("option of `compile()`, in a step", {name: name for name in OPTIONS}, list(STEPS), lambda *_: "holds")
    )


if __name__ == "__main__":
    main()
