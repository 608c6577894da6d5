"""The files of a store on disk: whose they are, and what is not followed to them."""
import contextlib
import os
import stat
import subprocess
import sys

import pytest

import store
from conftest import ROOT


@pytest.fixture(autouse=True)
def open_umask():
    """Everything that a file's maker does not forbid is allowed."""
    old = os.umask(0)
    yield
    os.umask(old)


def modes(folder):
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir() if not path.is_symlink()}


def test_every_file_of_a_store_is_its_owners_alone_whatever_the_umask(tmp_path):
    """In a folder that others can enter they would read the store, its backup or its export."""
    with contextlib.closing(store.open(tmp_path / "a.db")) as node:
        node.submit_tx([store.put({"xt/id": "one"})])
        node.backup(tmp_path / "copy.db")
        found = modes(tmp_path)
    subprocess.run([sys.executable, str(ROOT / "shell.py"), str(tmp_path / "a.db"),
                    f".export {tmp_path / 'all.jsonl'}"], check=True,
                   capture_output=True)
    found |= modes(tmp_path)
    assert {"a.db", "a.db-wal", "a.db-shm", "a.db.lock", "copy.db", "all.jsonl"} <= found.keys()
    assert set(found.values()) == {"0o600"}


def test_no_lock_and_no_backup_follows_a_link(tmp_path):
    """Whoever may write into the folder would have any file of ours emptied, or the backup put where they read it."""
    precious, elsewhere = tmp_path / "precious", tmp_path / "elsewhere.db"
    precious.write_text("years of work")
    (tmp_path / "a.db.lock").symlink_to(precious)
    with pytest.raises(store.StoreError, match="cannot be opened"):
        store.open(tmp_path / "a.db")
    assert precious.read_text() == "years of work"
    (tmp_path / "copy.db").symlink_to(elsewhere)
    with contextlib.closing(store.open(tmp_path / "b.db")) as node, pytest.raises(store.StoreError,
                                                                                  match="exists already"):
        node.backup(tmp_path / "copy.db")
    assert not elsewhere.exists()


def test_a_stores_schema_is_not_trusted(tmp_path):
    """A file that somebody prepared could call functions of ours from a view or a trigger."""
    with contextlib.closing(store.open(tmp_path / "a.db")) as node:
        assert node._file.writer.execute("pragma trusted_schema").fetchone() == (0,)
        with node._file.reading() as reader:
            assert reader.execute("pragma trusted_schema").fetchone() == (0,)
