"""What others install: the store and the chat, built from this clone and used far from it."""
import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
import uuid
import zipfile

import fastapi
import pytest

import chromium
import store
from conftest import IS_CI, NEEDS, ROOT, free_port, wait_until

STORE = ROOT / "packages/store"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
RUN_S_MAX = 300         # the first installation fetches what the index has
PYTHONS = ["3.11", "3.12", "3.13", "3.13t", "3.14", "3.14t"]          # t: free-threaded
OTHERS = [version for version in PYTHONS if version != "{}.{}".format(*sys.version_info) + sys.abiflags]


def run(*command, cwd, **environment):
    """What a command prints. It sees nothing of this clone but what it is given."""
    without = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=without | environment, capture_output=True, text=True,
                          timeout=RUN_S_MAX)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def built(folder, into):
    """A wheel of a folder, and one of its sdist."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", into / "sdist", cwd=folder)
    for name, source in ("clone", folder), ("again", next((into / "sdist").glob("*.tar.gz"))):
        run(*PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", into / name, source, cwd=into)
    return [next((into / name).glob("*.whl")) for name in ("clone", "again")]


def installed(folder, wheel):
    """A fresh environment with a wheel and what it needs; its folder of programs."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    run(*PIP, "--python", folder / "bin/python", "install", "-q", wheel, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def store_wheels(tmp_path_factory):
    return built(STORE, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def store_bin(store_wheels, tmp_path_factory):
    return installed(tmp_path_factory.mktemp("installed") / "store", store_wheels[0])


def site(bin):
    return next(bin.parent.glob("lib/python*/site-packages"))


def test_the_installed_store_is_the_file_that_is_copied(store_wheels, store_bin):
    """Without this, what others depend on could differ from what is tested here, or bring more than they asked for."""
    one, again = map(zipfile.ZipFile, store_wheels)
    assert {name: one.read(name) for name in one.namelist()} == {name: again.read(name) for name in again.namelist()}
    package, modules = site(store_bin) / "eelstore", {"shell.py", *(path.name for path in ROOT.glob("store*.py"))}
    assert {"store.py", "store_postgres.py"} < modules
    assert {path.name for path in package.glob("*.py")} == modules | {"__init__.py", "__main__.py"}
    assert all((package / name).read_bytes() == (ROOT / name).read_bytes() for name in modules)
    found = json.loads(run(*PIP, "--python", store_bin / "python", "list", "--format=json", cwd=store_bin))
    assert {one["name"] for one in found} == {"eelstore", "msgpack"}
    assert {name for name in os.listdir(site(store_bin)) if "eelstore" not in name and "msgpack" not in name} == set()


def test_the_packages_have_one_version_and_one_licence(store_wheels):
    """Without this, a bug would be reported of a version that nobody can find."""
    projects = [tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (STORE, ROOT)]
    assert [project["version"] for project in projects] == [store.__version__] * 2
    wheel, licence = zipfile.ZipFile(store_wheels[0]), (ROOT / "LICENSE").read_bytes()
    assert wheel.read(f"eelstore-{store.__version__}.dist-info/licenses/LICENSE") == licence


def test_the_installed_store_is_used_by_a_program_and_at_the_terminal(store_bin, tmp_path):
    """Without this, the first program of one who installs it could be the first to find that it was never tried."""
    out = run(store_bin / "python", ROOT / "tests/consumer.py", tmp_path / "a.db", cwd=tmp_path)
    assert out.splitlines()[0] == "[(41,)] [(42,)] {'age': 42, 'xt/id': 'ann'} {'age': 42}"
    assert out.splitlines()[-1] == f"[1, 2] True {store.__version__}"
    for command in [store_bin / "eelstore"], [store_bin / "python", "-m", "eelstore"]:
        shown = run(*command, tmp_path / "a.db", '{"find": ["?age"], "where": [["ann", "age", "?age"]]}', cwd=tmp_path)
        assert shown.split() == ["?age", "----", "42"]
    page = run(store_bin / "python", ROOT / "tests/printed.py", STORE / "README.md", cwd=tmp_path)
    examples, = json.loads(page).values()
    assert examples and all(wanted == got for _, wanted, got in examples)
    assert "usage: eelstore " in run(store_bin / "eelstore", "--help", cwd=tmp_path)
    run(store_bin / "python", "-c", "; ".join(f"import eelstore.{path.stem}" for path in ROOT.glob("store*.py")
                                              if path.stem != "store_postgres"), cwd=tmp_path)
    alone = f"import eelstore; eelstore.open('postgresql://', index={str(tmp_path / 'i.db')!r})"
    said = subprocess.run([store_bin / "python", "-c", alone], cwd=tmp_path, capture_output=True, text=True).stderr
    assert "needs the driver psycopg" in said


def test_a_consumer_passes_both_checkers_at_their_strictest(store_bin, tmp_path):
    """Without this, everyone who depends on the store would silence their checker wherever they use it."""
    shutil.copy(ROOT / "tests/consumer.py", tmp_path)
    said = run(sys.executable, "-m", "mypy", "--strict", "--python-executable", store_bin / "python", "consumer.py",
               cwd=tmp_path)
    assert "Success: no issues found" in said
    config = {"include": ["consumer.py"], "typeCheckingMode": "strict", "venv": store_bin.parent.name,
              "venvPath": str(store_bin.parent.parent)}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    assert "0 errors, 0 warnings" in run("node", pyright(), "-p", tmp_path, cwd=tmp_path)


def pyright():
    """npm's, fetched once for each version. Without it a promise goes untested: with CI set that is an error."""
    package = ROOT / "tests/pyright"
    version = json.loads((package / "package.json").read_text())["dependencies"]["pyright"]
    home = ROOT / "tests/.chromium" / f"pyright-{version}"
    try:
        if not home.exists():
            with chromium.fetched(home, package, "no pyright: npm is missing") as (modules, ready):
                shutil.copytree(modules / "pyright", ready, dirs_exist_ok=True)
    except LookupError as error:
        if IS_CI:
            raise
        pytest.skip(str(error))
    return home / "index.js"


@pytest.mark.parametrize("version", OTHERS)
def test_the_store_runs_on_each_other_python(version, store_wheels, tmp_path):
    """Without this, it would be installed where it breaks: what is not on this machine is counted as not tried."""
    python = interpreter(version)
    number = version.rstrip("t").replace(".", "")
    abi = f"cp{number}t" if version.endswith("t") else f"cp{number}"
    run(*PIP, "install", "-q", "--target", tmp_path / "site", "--python-version", version.rstrip("t"), "--abi", abi,
        "--abi", "abi3", "--abi", "none", "--only-binary=:all:", store_wheels[0], cwd=tmp_path)
    out = run(python, ROOT / "tests/consumer.py", tmp_path / "a.db", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert out.splitlines()[-1] == f"[1, 2] True {store.__version__}"


def interpreter(version):
    kept = [pathlib.Path.home() / folder for folder in (".pyenv/versions", ".local/share/uv/python")]
    found = [shutil.which(f"python{version}"), *(path for home in kept for path in home.glob(f"*/bin/python{version}"))]
    for path in filter(None, found):
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:    # pyenv has names of what it lacks
            return path
    pytest.skip(f"{NEEDS}python{version}: not on PATH")


def test_the_installed_chat_answers_with_its_scripts(tmp_path):
    """Without this, who installs the chat without its clone could get a page that does nothing, or need npm for it."""
    wheel, again = built(ROOT, tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    assert names == zipfile.ZipFile(again).namelist()
    assert {name.split("/")[0] for name in names} == {"eelchat", f"eelchat-{store.__version__}.dist-info"}
    port, bin = free_port(), installed(tmp_path / "installed", wheel)
    with subprocess.Popen([bin / "eelchat", "--port", str(port)], cwd=tmp_path, env={"PATH": str(bin)},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as chat:
        try:
            page = wait_until(lambda: answer(port, "/"), 60, lambda: "it does not answer")
            scripts = re.findall(r'<script[^>]* src="([^"]+)"', page)
            assert {"htmx.js", "hx-ws.js", "hyperscript.js"} < {re.split("[/?]", script)[2] for script in scripts}
            assert all(answer(port, script) for script in scripts)
            assert (tmp_path / "data/eelchat.db").exists()
        finally:
            chat.send_signal(signal.SIGINT)
            chat.communicate(timeout=60)


def test_the_clone_that_is_installed_in_place_is_the_clone(tmp_path):
    """Without this, `pip install -e .` could put a copy of the chat before the one that a developer changes."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel:editable", "-d", tmp_path, cwd=ROOT)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert [name for name in names if ".dist-info/" not in name] == ["_eelchat.pth"]


def answer(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as got:
            return got.read().decode()
    except OSError:
        return ""


# ── The example ────────────────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def example(store_bin, tmp_path):
    """`example(*command)` starts a command in a copy of docs/examples, where the store is the installed one."""
    folder, libraries = tmp_path / "examples", pathlib.Path(fastapi.__file__).parent.parent
    shutil.copytree(ROOT / "docs/examples", folder)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(libraries), "NOTES": str(tmp_path / "notes.db")}
    return lambda *command: subprocess.Popen([store_bin / "python", *map(str, command)], cwd=folder, env=environment,
                                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def printed(process):
    out, _ = process.communicate(timeout=RUN_S_MAX)
    assert process.returncode == 0, out
    return out


def test_a_server_of_four_workers_a_command_and_a_notebook_share_one_file(example, tmp_path):
    """Without this, the first things that people want beside a server could be refused, or see another truth."""
    port, file = free_port(), tmp_path / "notes.db"
    with example("-m", "uvicorn", "notes_server:app", "--workers", "4", "--port", port) as server:
        try:
            wait_until(lambda: answer(port, "/"), 60, lambda: "the server does not answer")
            ids = [uuid.uuid4() for _ in range(40)]
            with concurrent.futures.ThreadPoolExecutor(8) as people:
                numbers = list(people.map(lambda id: write(port, id, {"text": f"note {id}"})["tx_id"], ids))
            assert sorted(numbers) == list(range(1, 41))
            workers = set()
            wait_until(lambda: workers.add(json.loads(answer(port, "/"))["worker"]) or len(workers) > 1, 60,
                       lambda: "only one worker answers")
            mine = printed(example("notes.py", file, "add", "from the terminal")).strip()
            assert [len(json.loads(answer(port, path))) for path in ("/notes", "/notes?tx_id=40")] == [41, 40]
            assert write(port, mine, {"text": "changed", "before": "from the terminal"}) == {"tx_id": 42}
            assert write(port, mine, {"text": "too late", "before": "from the terminal"}) is None
            assert "undone by transaction 44" in printed(example("notes.py", file, "undo", mine))
            texts = [version["text"] for version in json.loads(answer(port, f"/notes/{mine}/history"))]
            assert texts == ["from the terminal", "changed", "from the terminal"]
            assert "41 notes, the busiest was written 3 times" in printed(example("notes_notebook.py"))
            assert "from the terminal" in printed(example("notes.py", file, "list"))
            assert events(port, 43) == [*range(1, 43), 44], "43 was refused"
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
    with store.open(file) as node:
        assert node.verify() == node.latest_tx.tx_id


def write(port, id, note):
    """What the server answers, or None where somebody else has changed the note."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/notes/{id}", json.dumps(note).encode(),
                                     {"Content-Type": "application/json"}, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=60) as got:
            return json.load(got)
    except urllib.error.HTTPError as error:
        assert error.code == 409
        return None


def events(port, count):
    """The first transactions that a listener of some worker hears."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/events", timeout=60) as stream:
        heard = (int(line[4:]) for line in stream if line.startswith(b"id: "))
        return list(itertools.islice(heard, count))
