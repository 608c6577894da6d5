"""The seed of the random tests: another for each commit, the same for whoever runs that commit."""
import subprocess

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
