"""The scripts that type checkers read (`tox -e types`) are right when they run, too."""

import runpy
from pathlib import Path

from customfit import compat


def test_the_script_of_this_generation_runs(tmp_path):
    script = "keras3_script.py" if compat.IS_KERAS_3 else "keras2_script.py"
    runpy.run_path(str(Path(__file__).parent / "typing" / script))["main"](str(tmp_path))
