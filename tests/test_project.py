"""The pages and files about the project say what is so."""

import configparser
import re
from pathlib import Path

from customfit import __version__

ROOT = Path(__file__).parent.parent


def test_versions_agree():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    released = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[:1] in ([], [__version__])


def test_contributing_names_files_that_there_are():
    text = re.sub(r"```.*?```", "", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    named = [name for name in re.findall(r"`([\w./]+)`", text) if re.search(r"/|\.(py|md|ini|cff|cfg)$", name)]
    assert len(named) > 30
    rooms = [ROOT, ROOT / "customfit", ROOT / "customfit" / "training"]
    missing = [name for name in named if not any((room / name).exists() for room in rooms)]
    assert missing == []


def test_hooks_check_with_what_ci_checks_with():
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    of_tox = {requirement for section in tox for requirement in tox[section].get("deps", "").split("\n")}
    of_tox |= set(tox["tox"]["requires"].split("\n"))
    lists = re.findall(r"additional_dependencies: \[(.*)\]", (ROOT / ".pre-commit-config.yaml").read_text())
    of_hooks = {requirement.strip(' "') for found in lists for requirement in found.split(",")}
    assert of_hooks
    assert of_hooks <= of_tox
