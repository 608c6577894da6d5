"""The README and the documents are run as they are printed."""
import ast
import itertools
import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/**/*.md")])
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)
DOCUMENTS = [path for path in PAGES if "```python" in path.read_text() and "packages" not in path.parts]
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
FILES = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.*")
         if not {".venv", "node_modules", ".chromium", ".git"} & set(path.relative_to(ROOT).parts)]
TESTS = {}
for path in (ROOT / "tests").rglob("test_*.py"):
    TESTS.setdefault(path.name, []).append(path.read_text())
OTHERS_FILES = {"my_app.py"}           # named as an example


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The examples of every document, run in one process: file name → (line, what stands there, what came)."""
    folder = tmp_path_factory.mktemp("printed")
    for path in [*ROOT.glob("store*.py"), ROOT / "shell.py"]:
        (folder / path.name).symlink_to(path)
    programs = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run([sys.executable, str(ROOT / "tests/printed.py"), *map(str, DOCUMENTS)], cwd=folder,
                          capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": programs}, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_example_prints_what_stands_beneath_it(path, printed):
    """Without this, the first thing that a newcomer tries could be the first that fails."""
    assert printed[path.name]
    for line, wanted, got in printed[path.name]:
        assert got == wanted, f"{path.name}, line {line}"


def test_the_documents_are_found():
    """Without this, a moved document would no longer be run, and nobody would notice."""
    assert {"README.md", "store.md", "reference.md", "cheatsheet.md", "cookbook.md", "coming-from.md"} <= {
        path.name for path in DOCUMENTS}


def test_what_checks_every_change_is_the_readmes_second_command():
    """Without this, the command that people are given could break while the checks stay green."""
    run, test = COMMANDS
    assert test in (ROOT / ".ci/run").read_text().splitlines()
    assert run.endswith(" .venv/bin/python eelchat.py") and (ROOT / "eelchat.py").exists()


def test_no_lock_file_names_a_registry():
    """Without this, an installation elsewhere would ask for packages at an address that only one machine knows."""
    for lock in "package-lock.json", *(f"tests/{part}package-lock.json" for part in ("", "axe/", "pyright/")):
        text = (ROOT / lock).read_text()
        assert '"integrity": "sha512-' in text and '"resolved"' not in text
        assert "://" not in re.sub(r'"url": "[^"]*"', "", text)


def test_every_wall_that_security_md_names_has_its_test():
    """Without this, a wall could stand in the page that people trust and have no test at all."""
    rows = re.findall(r"^\| \d.*", (ROOT / "SECURITY.md").read_text().partition("## OWASP")[2], re.MULTILINE)
    assert len(rows) > 30 and all(TEST.search(row) for row in rows)


def test_every_promise_has_its_test():
    """Without this, a promise could be made that nothing holds."""
    rows = re.findall(r"^\| .*", (ROOT / "docs/promises.md").read_text(), re.MULTILINE)
    promises = [row for row in rows if not row.startswith(("| promise ", "| ---"))]
    assert len(promises) > 30 and all(TEST.search(row) for row in promises)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_test_that_a_page_names_is_there(path):
    """Without this, a wall could go, its test with it, and the page that people trust would still praise it."""
    text = path.read_text()
    missing = {f"{file}::{test}" for file, test in TEST.findall(text)
               if not any(f"def {test}(" in code for code in TESTS.get(file, ()))}
    tests = "".join(itertools.chain(*TESTS.values()))
    assert not missing and not [name for name in re.findall(r"pytest -k (\w+)", text) if name not in tests]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_that_a_page_names_is_there(path):
    """Without this, a page would send its readers to a room that was moved."""
    named = set(re.findall(r"(?<![\w/.-])(?:[\w.-]+/)*[\w-]+\.(?:py|md|js|css|html|png)\b", path.read_text()))
    named = {name.removeprefix("../") for name in named} - OTHERS_FILES
    assert not {name for name in named if not any(f"/{there}".endswith(f"/{name}") for there in FILES)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_between_pages_leads_somewhere(path):
    """Without this, a reader would be sent to a page that is not there."""
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()) if "://" not in link]
    assert not [link for link in links if not (path.parent / link).exists()]


def test_what_the_house_names_stands_where_it_says():
    """Without this, a newcomer would look for the six most wanted places where they were last year."""
    table = (ROOT / "docs/architecture.md").read_text().partition("## Where to find")[2]
    named = [(file, name) for file, names in re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", table)
             for name in re.findall(r"`([\w.]+)`", names)]
    assert len(named) >= 6
    assert not [(file, name) for file, name in named if not is_defined(ROOT / file, name)]


def is_defined(path, name):
    """True if a file has this function, or this class with this method."""
    body, steps = ast.parse(path.read_text()).body, name.split(".")
    for step in steps:
        found = [part for part in body if getattr(part, "name", None) == step]
        if not found:
            return False
        body = found[0].body
    return True


def test_the_picture_can_be_taken_again(chromium_found, tmp_path):
    """Without this, the README would show a chat that is long gone, and nobody could take its picture anew."""
    done = subprocess.run([sys.executable, str(ROOT / "docs/pictures.py"), str(tmp_path), "chat"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for picture in tmp_path / "chat.png", ROOT / "docs/chat.png":
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 200_000


def test_the_figures_of_the_readme_stand_on_their_page():
    """Without this, a figure could be measured anew on one page and praise itself on the other."""
    rows = re.findall(r"^\| .* \| (.*) \| `bench/\w+\.py` \|$", README, re.MULTILINE)
    assert len(rows) >= 6
    page = (ROOT / "docs/figures.md").read_text()
    assert not [figure for row in rows for figure in row.split(", ") if figure not in page]
