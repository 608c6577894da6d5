"""A Chromium for the tests: the one that CHROMIUM names, else the machine's own, else npm's, unpacked beside this file.

`python tests/chromium.py` prints which one it is.
"""
import contextlib
import fcntl
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

HERE = pathlib.Path(__file__).parent
NAMES = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
FONTS = "<fontconfig><dir>{home}/fonts</dir><cachedir>{home}/cache</cachedir></fontconfig>"
UNPACK_S_MAX = 300      # 67 MB from a slow registry, then brotli: far above the 6 s of a usual machine


def find():
    """The executable's path and the environment it needs, as playwright's `launch` takes them.

    Raises: LookupError, saying what was looked for and what to do.
    """
    if named := os.environ.get("CHROMIUM"):
        if not shutil.which(named):
            raise LookupError(f"CHROMIUM names {named}, which is not a program")
        return {"executable_path": named}
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return {"executable_path": found}
    return from_npm()


def from_npm():
    """npm's Chromium, fetched and unpacked once for each version; it runs without root and without system packages."""
    version = json.loads((HERE / "package.json").read_text())["dependencies"]["@sparticuz/chromium"]
    home = HERE / ".chromium" / version
    if not home.exists():
        unpack(home)
    return {"executable_path": str(home / "chromium"),
            "env": os.environ | {"LD_LIBRARY_PATH": str(home / "lib"), "FONTCONFIG_FILE": str(home / "fonts.conf")}}


def unpack(home):
    """Fills `home` with the browser."""
    with fetched(home, HERE, "no Chromium: install one, or npm, or set CHROMIUM to its path") as (modules, ready):
        packed = modules / "@sparticuz/chromium/bin"
        for name in "al2023", "fonts":
            extract(read_brotli(packed / f"{name}.tar.br"), ready)
        (ready / "chromium").write_bytes(read_brotli(packed / "chromium.br"))
        (ready / "chromium").chmod(0o755)
        (ready / "fonts.conf").write_text(FONTS.format(home=home))


@contextlib.contextmanager
def fetched(home, package, without_npm):
    """Gives node_modules of a package, and a folder that becomes `home` in one rename: two test runs at once, or a run
    that is stopped, leave no half of it.

    Raises: LookupError, where npm is missing (`without_npm` says what to do) or cannot fetch it.
    """
    if not shutil.which("npm"):
        raise LookupError(without_npm)
    home.parent.mkdir(exist_ok=True)
    with open(home.parent / "lock", "w") as lock, tempfile.TemporaryDirectory(dir=home.parent) as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = pathlib.Path(folder)
        for name in "package.json", "package-lock.json", ".npmrc":
            shutil.copy(package / name, folder)
        npm_ci(folder)
        ready = folder / "ready"
        ready.mkdir()
        yield folder / "node_modules", ready
        if not home.exists():
            ready.rename(home)


def npm_ci(folder):
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=UNPACK_S_MAX)
    if done.returncode:
        raise LookupError(f"npm could not fetch what the tests need: {done.stderr.strip()[-300:]}")


def extract(data, folder):
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}     # Python 3.11.2 has no filters yet
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(folder, **safely)


def read_brotli(path):
    import brotli       # only here: a machine with a browser of its own can do without
    return brotli.decompress(path.read_bytes())


if __name__ == "__main__":
    print(find()["executable_path"])
