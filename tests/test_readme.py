"""The README is run as it is printed."""
import os
import re
import subprocess
import sys

from conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)


def test_the_readmes_example_prints_what_stands_beneath_it(tmp_path):
    """Without this, the first thing that a newcomer tries could be the first that fails."""
    program, output = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == output


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
