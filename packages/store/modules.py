"""The build hook that brings the modules of the store: the very files that others copy."""
import pathlib

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Modules(BuildHookInterface):
    def initialize(self, version, build_data):
        here = pathlib.Path(self.root)
        if (here / "eelstore/store.py").exists():          # in an sdist they lie in the package already
            return
        clone = here.parent.parent
        kind = "force_include_editable" if version == "editable" else "force_include"
        modules = [*clone.glob("store*.py"), clone / "shell.py"]
        build_data[kind] |= {str(path): f"eelstore/{path.name}" for path in modules}
