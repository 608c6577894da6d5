"""Versions of store.py beside each other, asked in turns call by call: what a change costs, on a noisy machine too.

    git show HEAD~9:store.py > /tmp/before.py
    python bench/versions.py /tmp/before.py store.py [--size 10000] [--rounds 3000] [--rows put db message …]

All versions run in this process, each on a file of its own with the same data, in a temporary folder of the current
one. A figure is the median, and × its ratio to that of the first version. A put is counted in CPU of its thread, too,
since the disk is everybody's. A file beside a version is found in that version's folder.
"""

import argparse
import gc
import importlib.util
import pathlib
import random
import statistics
import sys
import tempfile
import time

import world

USER = {"find": ("pull", "?u", ["*"]), "in": ["?email"], "where": [["?u", "user/email", "?email"]]}
CHANNEL = {"find": ("pull", "?m", ["*"]), "in": ["?c"], "where": [["?m", "msg/channel", "?c"]]}
NEWEST = CHANNEL | {"order-by": [[("created", "?m"), "desc"]], "limit": 50}
JOIN = {"find": ["?text", "?email"], "in": ["?c"],
        "where": [["?m", "msg/channel", "?c"], ["?m", "msg/text", "?text"], ["?m", "msg/mem", "?e"],
                  ["?e", "mem/user", "?u"], ["?u", "user/email", "?email"]]}
NESTED = ["*", ("mem/_user", {"as": "mems"}, ["*", {"mem/comm": ["*"]}])]
ASK = {"db": lambda node, _: node.db(), "message": lambda node, id: node.db().entity(id),
       "user_by_email": lambda node, email: node.db().q(USER, email),
       "channel": lambda node, channel: node.db().q(CHANNEL, channel),
       "newest": lambda node, channel: node.db().q(NEWEST, channel),
       "join": lambda node, channel: node.db().q(JOIN, channel),
       "nested": lambda node, user: node.db().pull(NESTED, user)}


def loaded(number, path):
    """A version as a module of its own."""
    sys.path.insert(0, str(path.resolve().parent))
    name = f"store_version_{number}"
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_turns(acts, rounds, arguments):
    """For each act what its calls took, in ns, and their CPU; in each round they come in another order."""
    taken, order = [([], []) for _ in acts], list(range(len(acts)))
    for n in range(rounds):
        argument = arguments(n)
        random.shuffle(order)
        for place in order:
            cpu, begin = time.thread_time_ns(), time.perf_counter_ns()
            acts[place](argument)
            taken[place][0].append(time.perf_counter_ns() - begin)
            taken[place][1].append(time.thread_time_ns() - cpu)
    return taken


def show(row, taken):
    figures = [statistics.median(times) / 1000 for times in taken]
    print(f"{row:16}" + "".join(f"{figure:10.2f} µs" for figure in figures)
          + "".join(f"{figure / figures[0]:8.3f} ×" for figure in figures[1:]), flush=True)


def main(options):
    modules, data = [loaded(*one) for one in enumerate(options.versions)], world.world_of(options.size)
    with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as folder:
        nodes = [module.open(f"{folder}/{number}.db") for number, module in enumerate(modules)]
        for module, node in zip(modules, nodes):
            node.submit_tx([module.put(document) for document in data.documents()])
        gc.collect(), gc.freeze()
        for row in (row for row in ASK if not options.rows or row in options.rows):
            asked = [None] if row == "db" else data.arguments(row, 50)
            acts = [lambda argument, node=node, ask=ASK[row]: ask(node, argument) for node in nodes]
            in_turns(acts, 2 * len(asked), lambda n: asked[n % len(asked)])
            show(row, [times for times, _ in in_turns(acts, options.rounds, lambda n: asked[n % len(asked)])])
        if not options.rows or "put" in options.rows:
            rng = random.Random(1)
            acts = [lambda document, node=node, module=module: node.submit_tx([module.put(document)])
                    for module, node in zip(modules, nodes)]
            taken = in_turns(acts, options.rounds, lambda n: data.fresh(rng))
            show("put", [times for times, _ in taken]), show("put, CPU", [cpu for _, cpu in taken])
        for node in nodes:
            node.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="+", type=pathlib.Path)
    parser.add_argument("--size", default="10000")
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--rows", nargs="*", help=f"of {', '.join(ASK)}, put")
    main(parser.parse_args())
