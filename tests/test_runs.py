"""A run of the tests: its seed, another for each commit and the same for whoever runs that commit; and second tries."""
import os
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st

import conftest


def commit(folder, message):
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", message], cwd=folder, check=True)


def test_each_commit_has_a_seed_of_its_own(tmp_path):
    """Without this, the random tests would try the same cases for ever, or others here than in CI."""
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    commit(tmp_path, "one")
    first = conftest.seed_of_commit(tmp_path)
    assert conftest.seed_of_commit(tmp_path) == first and 0 <= first < 2 ** 32
    commit(tmp_path, "two")
    assert conftest.seed_of_commit(tmp_path) != first


def test_a_tree_without_git_takes_its_seed_from_its_files(tmp_path):
    """Without this, a copied project could not repeat a random test that failed."""
    (tmp_path / "store.py").write_text("one = 1")
    first = conftest.seed_of_commit(tmp_path)
    assert conftest.seed_of_commit(tmp_path) == first
    (tmp_path / "store.py").write_text("one = 2")
    assert conftest.seed_of_commit(tmp_path) != first


def test_the_seed_decides_what_every_random_test_draws(seed, request):
    """Without this, a printed seed would not repeat the failure beside it: also not one that hypothesis found."""
    assert request.config.option.hypothesis_seed == request.config.stash[conftest.SEED] == seed
    assert not hypothesis.settings().derandomize
    assert drawn_by_hypothesis() == drawn_by_hypothesis()


def drawn_by_hypothesis():
    drawn = []

    @hypothesis.settings(max_examples=20, database=None)
    @hypothesis.given(st.integers())
    def draw(number):
        drawn.append(number)
    draw()
    return drawn


def test_a_second_try_is_shown_and_the_store_has_none(tmp_path):
    """Without this, one noisy second would refuse a change, or a wrong answer of the store would pass by chance."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for folder in "chat", "store":
        (tmp_path / "tests" / folder).mkdir(parents=True)
        (tmp_path / "tests" / folder / f"test_{folder}.py").write_text(f"""
import pathlib
def test_at_times():
    tried = pathlib.Path({str(tmp_path / folder)!r})
    if not tried.exists():
        tried.touch()
        raise AssertionError("at the first try")
def test_never():
    assert False
""")
    environment = os.environ | {"PYTHONPATH": str(conftest.ROOT / "tests")}
    environment.pop("PYTEST_XDIST_WORKER", None)
    run = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", "-p", "conftest", "tests"], cwd=tmp_path,
                         env=environment, capture_output=True, text=True, timeout=120)
    assert "3 failed, 1 passed, 2 rerun" in run.stdout, run.stdout + run.stderr
    shown = run.stdout.partition("rerun test summary info")[2]
    assert "at the first try" in shown and "PASSED tests/chat/test_chat.py::test_at_times" in shown
