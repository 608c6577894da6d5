"""What the signatures say is what the code does, as far as a checker can see."""
import inspect
import subprocess
import sys
import typing

import pytest

import store
from conftest import ROOT


def test_the_checker_finds_nothing_to_say():
    """Without this, annotations would be comments: an editor would complete and warn by what was true once."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Success: no issues found" in done.stdout, done.stdout + done.stderr


def public(thing):
    """A function itself, or a class's own public methods and properties."""
    if not inspect.isclass(thing):
        return [thing]
    methods = [getattr(member, "fget", None) or member for name, member in vars(thing).items() if name[0] != "_"]
    return [method for method in methods if inspect.isfunction(method)]


@pytest.mark.parametrize("name", store.__all__)
def test_everything_public_says_what_it_takes_and_what_it_gives(name):
    """Without this, a new method could come without types, and the checker would pass it over in silence."""
    for function in public(getattr(store, name)):
        said = typing.get_type_hints(function)
        wanted = {parameter for parameter in inspect.signature(function).parameters if parameter != "self"} | {"return"}
        assert said.keys() == wanted, function.__qualname__
