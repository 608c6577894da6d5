# SPDX-License-Identifier: MIT
"""Configuration: what the server is told at its start.

An argument wins over an environment variable, that over `config.toml` in the data folder, that over the default. The
setting mail_host is EELCHAT_MAIL_HOST in the environment, where the application is named eelchat. A password is not an
argument, because every user of a machine sees those. The secret is made at the first start and never shown.
"""

import argparse
import asyncio
import contextlib
import functools
import ipaddress
import os
import pathlib
import re
import resource
import secrets
import stat
import sys
import tempfile
import tomllib
import urllib.parse
from typing import Any, Callable, NamedTuple

from biff import metrics
from biff.limits import Limits
from biff.system import StartError, dicts, end_tasks

WORKERS_MAX = 64                      # more than a machine's cores gain nothing
FILES_KEPT = 80                       # not for connections: the store, feeds, mail, and those accepted in one go
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://[^/]*")      # what it sets as EELCHAT_PORT beside a service of that name


class Setting(NamedTuple):
    default: Any
    read: Callable[[str], Any]        # raises ValueError, with a sentence of its own or without
    help: str
    is_argument: bool = True


def _port(text):
    if not 0 <= int(text) <= 65_535:
        raise ValueError
    return int(text)


def _workers(text):
    if not 1 <= int(text) <= WORKERS_MAX:
        raise ValueError(f"wanted is a number from 1 to {WORKERS_MAX}")
    return int(text)


def _base_url(text):
    url = urllib.parse.urlsplit(text.rstrip("/"))
    is_more = url.path or url.query or url.fragment or "@" in url.netloc
    if url.scheme not in ("http", "https") or not url.hostname or is_more:
        raise ValueError("wanted is http:// or https://, a name, perhaps a port, and nothing after it")
    return f"{url.scheme}://{url.netloc.lower()}"


def networks(text):
    return [ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()]


SETTINGS = {
    "host": Setting("127.0.0.1", str, "the address to listen on"),
    "port": Setting(8080, _port, "the port to listen on; 0 takes a free one"),
    "data": Setting(pathlib.Path("data"), pathlib.Path, "the folder of all that is kept"),
    "log": Setting(None, str, "postgresql://… of the log that servers share; the folder then holds this one's index"),
    "workers": Setting(1, _workers, "processes that serve the port and the store together, at most one a core"),
    "base_url": Setting(None, _base_url, "the address that people type, such as https://chat.example.org"),
    "proxies": Setting([], networks, "addresses of proxies whose X-Forwarded-For is believed, with commas between"),
    "metrics": Setting(None, _port, "a loopback port for /metrics in the Prometheus format"),
    "mail_host": Setting(None, str, "the mail server; without one, mail is printed to the console", False),
    "mail_port": Setting(587, _port, "its port; 465 speaks TLS from the first byte", False),
    "mail_user": Setting(None, str, "the name to sign in there with", False),
    "mail_password": Setting(None, str, "the password to sign in there with", False),
    "mail_from": Setting(None, str, "the address that mail comes from", False),
}


def arguments(name: str, description: str, argv: list[str] | None = None) -> dict:
    """The settings that the command line gives, as {setting: text}. Prints help and ends when asked to."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    for key, setting in SETTINGS.items():
        if setting.is_argument:
            shown = f" (default: {setting.default})" if setting.default else ""
            parser.add_argument("--" + key.replace("_", "-"), help=setting.help + shown, metavar=key.upper())
    return {key: text for key, text in vars(parser.parse_args(argv)).items() if text is not None}


def read_config(system: dict) -> dict:
    """The settings, {setting: value}, which also are system["biff/config"] from then on. Raises: StartError."""
    prefix, settings = system["biff/name"].upper() + "_", SETTINGS | dicts(system, "settings")
    given = {key: str(text) for key, text in system.get("biff/arguments", {}).items()}
    around = _environment(settings, prefix)
    folder = _setting(settings, "data", [given, around], prefix)
    _make_folder(folder, system["biff/name"])
    sources = [given, around, _config_file(settings, folder, prefix)]
    config = system["biff/config"] = {key: _setting(settings, key, sources, prefix) for key in settings}
    config["data"] = folder
    if config["mail_host"] and not config["mail_from"]:
        raise StartError("mail_host is set but mail_from is not; mail needs an address that it comes from.")
    return config


async def use_config(system: dict) -> dict:
    worker = system.get("biff/worker")
    config = system["biff/config"] if worker else read_config(system)
    system["biff/secret"] = _secret(config["data"] / "secret")
    system["biff/limits"], system["biff/seen"] = Limits(times=worker and worker.times), {}
    system["biff/connections-max"] = max(files_max() - FILES_KEPT, files_max() // 4)
    await _use_metrics(system)
    system["biff/base-url"] = config["base_url"] or address_of(config["host"], config["port"])
    return system


def number_of(system: dict) -> int:
    """The number of the worker that this process is; 0 where there is only one."""
    return system["biff/worker"].number if "biff/worker" in system else 0


def files_max() -> int:
    """The number of files the process may open, after raising the soft limit (often 1,024) to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


async def _use_metrics(system):
    """Figures are always kept, and told where a port is named for them."""
    figures, port = metrics.Metrics(system["biff/name"]), system["biff/config"]["metrics"]
    port = port and port + number_of(system)      # each worker has its own
    system["biff/metrics"] = figures
    system["biff/commit-seconds"] = figures.histogram(
        "commit_seconds", "From a transaction's submission to its acknowledgement.")
    if port is None:
        return
    lag = figures.histogram("loop_lag_seconds", "How late the event loop was.")
    watching = asyncio.create_task(metrics.watch_loop(lag))
    system["biff/stop"].append(functools.partial(end_tasks, [watching]))
    try:
        runner = await metrics.serve(figures, port)
    except OSError as failure:
        raise StartError(f"Port {port} of {metrics.HOST} cannot be used for metrics "
                         f"({os.strerror(failure.errno or 0)}): name another one with --metrics.") from None
    system["biff/stop"].append(runner.cleanup)
    print(f"Metrics are at http://{metrics.HOST}:{runner.addresses[0][1]}/metrics.", flush=True)


def _environment(settings, prefix):
    """The settings that stand in the environment, {setting: text}."""
    found = {key: os.environ[prefix + key.upper()] for key in settings if prefix + key.upper() in os.environ}
    return {key: text for key, text in found.items() if not (key == "port" and OF_KUBERNETES.fullmatch(text))}


def _setting(settings, key, sources, prefix):
    text = next((source[key] for source in sources if source.get(key)), None)
    if text is None:
        return settings[key].default
    try:
        return settings[key].read(text)
    except ValueError as error:
        raise StartError(f"The setting {key} (--{key.replace('_', '-')}, {prefix}{key.upper()}) is {text[:80]!r}, "
                         f"which cannot be read: {error}.") from None


def _make_folder(folder, name):
    """Makes the data folder, or closes one that others can enter, and its files: what people write is in it."""
    os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _close_folder(folder, name)
    except OSError as error:
        raise StartError(f"The data folder {folder} cannot be written to ({error.strerror}): make it yours, or name "
                         "another one with --data.") from None


def _close_folder(folder, name):
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & OPEN_TO_OTHERS:
        return
    ours = {folder / "secret", folder / "config.toml", *folder.glob("files*"), *folder.glob(f"{name}*.db*")}
    if mode & stat.S_IWOTH or set(folder.iterdir()) - ours:
        raise StartError(f"Others can enter the data folder {folder}, and more is in it than this chat's files: name a "
                         f"folder of its own with --data, or close this one by `chmod 700 {folder}`.")
    folder.chmod(0o700)
    for path in ours:
        if path.is_file() and not path.is_symlink():
            path.chmod(0o600)
    print(f"Others could enter the data folder {folder}: it is closed to them now (mode 700).", flush=True)


def _config_file(settings, folder, prefix):
    """The settings in config.toml, {setting: text}; {} if there is no such file."""
    path, old = folder / "config.toml", folder / "config.env"
    if old.exists():
        raise StartError(f"{old} is not read any more. Write its settings into {path}, the name in small letters "
                         f"without {prefix} and the value between quotes, such as mail_host = \"mail.example.org\", "
                         "and remove it.")
    try:
        found = tomllib.loads(path.read_text("utf-8")) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{path} cannot be read as TOML: {error}.") from None
    known = [key for key in settings if key != "data"]
    for key, value in found.items():
        if key not in known:
            raise StartError(f"{key} in {path} is not a setting. Settings are {', '.join(known)}.")
        if type(value) not in (str, int, list):
            raise StartError(f"{key} in {path} is a {type(value).__name__}; wanted is text between quotes or a number.")
    return {key: ",".join(map(str, value)) if type(value) is list else str(value) for key, value in found.items()}


def _secret(path):
    """32 random bytes, kept in a file that only its owner reads; tokens and codes are nothing without them."""
    try:
        if not path.exists():
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        secret = path.read_bytes()
    except OSError as error:
        raise StartError(f"The secret {path} cannot be read or made ({error.strerror}).") from None
    if len(secret) != 32:
        raise StartError(f"{path} has {len(secret)} bytes and not 32: put the right file back, or remove it for a new "
                         "one.")
    return secret


def address_of(host, port):
    """The address at which a browser on this machine finds the server."""
    shown = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
