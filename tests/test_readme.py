"""The README and the documents are run as they are printed."""
import itertools
import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)


DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if "```python" in path.read_text())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_example_prints_what_stands_beneath_it(path, tmp_path):
    """Without this, the first thing that a newcomer tries could be the first that fails."""
    for name in "store.py", "shell.py":
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "printed.py"), str(path)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    examples = json.loads(done.stdout)
    assert examples
    for line, wanted, got in examples:
        assert got == wanted, f"{path.name}, line {line}"


def test_the_documents_are_found():
    """Without this, a moved document would no longer be run, and nobody would notice."""
    assert {"README.md", "store.md"} <= {path.name for path in DOCUMENTS}


def test_what_checks_every_change_is_the_readmes_second_command():
    """Without this, the command that people are given could break while the checks stay green."""
    run, test = COMMANDS
    assert test in (ROOT / ".ci/run").read_text().splitlines()
    assert run.endswith(" .venv/bin/python eelchat.py") and (ROOT / "eelchat.py").exists()


def test_no_lock_file_names_a_registry():
    """Without this, an installation elsewhere would ask for packages at an address that only one machine knows."""
    for lock in "package-lock.json", "tests/package-lock.json":
        text = (ROOT / lock).read_text()
        assert '"integrity": "sha512-' in text and '"resolved"' not in text and "://" not in re.sub(r'"url": "[^"]*"', "", text)


def test_every_test_that_security_md_names_is_there():
    """Without this, a wall could go, its test with it, and the page that people trust would still praise it."""
    rows = [line for line in (ROOT / "SECURITY.md").read_text().partition("## OWASP")[2].splitlines() if re.match(r"\| \d", line)]
    named = [re.findall(r"`(test_\w+\.py)::(test_\w+)`", row) for row in rows]
    assert len(rows) > 30 and all(named)
    tests = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    missing = [(file, test) for file, test in itertools.chain(*named) if f"def {test}(" not in tests.get(file, "")]
    assert not missing
