"""One side of bench/store.py in a process of its own: it answers each command, a JSON object on a line, with one line.

A side is a class. `Side(folder)` opens or makes its store. It has a method for each question of `world`, and `load`,
`change`, `put` and `close`. It leaves out what it cannot do, and the table shows "–".
"""

import asyncio
import concurrent.futures
import gc
import json
import os
import pathlib
import random
import statistics
import sys
import time
import traceback

from world import plain, world_of


def serve(side_of):
    """Answers until standard input ends. The arguments are the folder, and a size as `world_of` takes it, or
    "rest" to open the store that is there."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                                 # what a library prints is no answer
    folder, size = pathlib.Path(sys.argv[1]), sys.argv[2]
    serving = _Serving(side_of, folder, size)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"is": getattr(serving, command.pop("do"))(**command)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


class _Serving:
    def __init__(self, side_of, folder, size):
        begin = time.perf_counter()
        self.side = side_of(folder)
        self.opened_ms = (time.perf_counter() - begin) * 1000
        self.world = None if size == "rest" else world_of(size)
        self.rng = random.Random(os.getpid())

    def load(self):
        """Documents a second."""
        documents = self.world.documents()
        begin = time.perf_counter()
        self.side.load(self.world)
        rate = len(documents) / (time.perf_counter() - begin)
        gc.collect(), gc.freeze()                 # the world is not what is measured
        return rate

    def change(self):
        self.side.change(self.world)

    def has(self, question):
        return hasattr(self.side, question)

    def answer(self, question):
        """The first answer, as plain values."""
        self.world.turn = 0
        argument, = self.world.arguments(question, 1)
        return plain(getattr(self.side, question)(argument))

    def time(self, question, count):
        """Microseconds a call, the median."""
        ask, times = getattr(self.side, question), []
        self.world.turn = getattr(self.world, "turn", 0) + 1
        for argument in self.world.arguments(question, count):
            begin = time.perf_counter_ns()
            ask(argument)
            times.append(time.perf_counter_ns() - begin)
        return statistics.median(times) / 1000

    def put(self, count):
        """Microseconds a durable put, the median."""
        put, times = self.side.put, []
        for document in self._fresh(count):
            begin = time.perf_counter_ns()
            put(document)
            times.append(time.perf_counter_ns() - begin)
        return statistics.median(times) / 1000

    def put_from_threads(self, count, threads=16):
        """Durable puts a second, from many threads at once."""
        documents, put = self._fresh(count), self.side.put
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            begin = time.perf_counter()
            list(pool.map(lambda n: [put(document) for document in documents[n::threads]], range(threads)))
            return count / (time.perf_counter() - begin)

    def put_from_tasks(self, count, tasks=64):
        """Durable puts a second, from many tasks of one event loop."""
        documents = self._fresh(count)

        async def one(part):
            for document in part:
                await self.side.put_async(document)

        async def all():
            begin = time.perf_counter()
            await asyncio.gather(*[one(documents[n::tasks]) for n in range(tasks)])
            return count / (time.perf_counter() - begin)
        return asyncio.run(all())

    def _fresh(self, count):
        return [self.world.fresh(self.rng) for _ in range(count)]

    def close(self):
        self.side.close()

    def rest(self):
        """The time that opening took, and the memory of the process then, in MB."""
        with open("/proc/self/statm") as statm:
            return self.opened_ms, int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2 ** 20
