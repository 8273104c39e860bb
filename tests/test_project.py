"""The pages and files about the project say what is so."""

import configparser
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from customfit import __version__
from tests import processes

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


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for heading in ("Run it", "Test it"):  # the first block below each is a command, which CI and newcomers run
        assert re.search(rf"^## {heading}\n\n```bash\n[^`\n]+\n```$", text, re.MULTILINE)


def test_the_readme_answers_in_the_order_in_which_a_newcomer_asks():
    start, *sections = re.split(r"^## (.*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    answers = dict(zip(sections[::2], sections[1::2]))
    assert "![" in start
    assert "```text" in start  # the picture, and the output
    assert list(answers)[:7] == [
        "Run it",
        "Install",
        "Use it",
        "When to use which",
        "What it gives beyond `fit`",
        "Speed",
        "The site",
    ]
    (example,) = re.findall(r"```python\n(.*?)```", answers["Use it"], re.DOTALL)
    assert len(example.splitlines()) <= 15
    for heading, rows in (("When to use which", 5), ("What it gives beyond `fit`", 10), ("Speed", 5)):
        assert len(re.findall(r"^\|", answers[heading], re.MULTILINE)) == rows + 2


PAGES = [path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if "_build" not in path.parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_there_are(page):
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if path.endswith(".rst") and "gallery/" in path:
            path = f"{ROOT}/examples/{Path(path).stem}.py".replace("index.py", "GALLERY_HEADER.rst")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings], target


@pytest.mark.slow
def test_what_is_packaged(tmp_path):
    pytest.importorskip("setuptools")
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "_build", "gallery", "__pycache__")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=left_out)
    code = "from setuptools import build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    result = processes.run([sys.executable, "-c", code], cwd=copy, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["tests", "examples", "docs"]
    sources = [path for folder in wanted for path in (copy / folder).rglob("*.*") if path.is_file()]
    assert {str(path.relative_to(copy)) for path in sources} | {"CHANGELOG.md", "tox.ini"} <= names
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    data = f"customfit-{__version__}.data/data/share/doc/customfit"
    assert {"customfit/py.typed", "customfit/execution/BLOCKS.md", f"{data}/CHANGELOG.md"} <= names
    assert f"{data}/examples/quickstart.py" in names
    assert not [name for name in names if name.startswith("tests/")]
