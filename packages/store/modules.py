"""The build hook that brings the modules of the store: the very files that others copy."""
import pathlib
import sys

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Modules(BuildHookInterface):
    def initialize(self, version, build_data):
        here = pathlib.Path(self.root)
        if (here / "eelstore/store.py").exists():          # in an sdist they lie in the package already
            return
        if version == "editable":
            sys.exit("eelstore is put together from the clone: install it without -e, or import store there.")
        clone = here.parent.parent
        modules = [*clone.glob("store*.py"), clone / "shell.py"]
        build_data["force_include"] |= {str(path): f"eelstore/{path.name}" for path in modules}
