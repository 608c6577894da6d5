# SPDX-License-Identifier: MIT
"""Listeners, queues and tasks.

They outlive whatever a plugin does in them: an exception is logged, and the next transaction, job or run follows.
"""

import asyncio
import functools
import itertools
import logging
import random
from typing import Any, Callable, Iterator

from biff.system import BiffError, assoc_db, end_tasks, name_of, parts

log = logging.getLogger("biff")


class QueueFullError(BiffError):
    """A queue holds as many jobs as it may."""


QUEUE_JOBS_MAX = 1_000                # waiting in a queue; more means that its consumer does not keep up
DRAIN_S_MAX = 10                      # for queued jobs at shutdown
PRIORITY = 10                         # of a job that names none; lower goes first


async def use_tx_listener(system: dict) -> dict:
    """Calls each plugin's `on_tx(ctx, tx)` for every committed transaction, in order, in this loop. It may not wait."""
    listening = [plugin["on_tx"] for plugin in system["biff/plugins"] if "on_tx" in plugin]

    def hear(tx):
        ctx = assoc_db(system)
        for on_tx in listening:
            try:
                on_tx(ctx, tx)
            except Exception:
                log.exception("%s failed at transaction %d", name_of(on_tx), tx.tx_id)

    node = system["biff/node"]
    listener = node.on_tx(hear)
    system["biff/stop"].append(listener.close)
    system["biff/metrics"].gauge("tx_lag", "Committed transactions that no listener has heard yet.",
                                 lambda: node.db().tx_id - listener.tx_id)
    return system


async def use_queues(system: dict) -> dict:
    """Runs the workers of each plugin's queue: `await consumer(ctx)`, with the job in ctx["biff/job"].

    A queue is {"id", "consumer", "workers": 1, "may-be-cut": False}. One that may be cut is not waited for at the end.
    """
    given = parts(system, "queues")
    queues = system["biff/queues"] = {queue["id"]: asyncio.PriorityQueue(QUEUE_JOBS_MAX) for queue in given}
    system["biff/job-numbers"] = itertools.count()
    workers = [asyncio.create_task(_work(system, queues[queue["id"]], queue["consumer"]))
               for queue in given for _ in range(queue.get("workers", 1))]
    kept = [queues[queue["id"]] for queue in given if not queue.get("may-be-cut")]
    system["biff/stop"].append(functools.partial(_drain, kept, workers))
    return system


def submit_job(ctx: dict, queue_id: str, job: Any, priority: int = PRIORITY) -> asyncio.Future:
    """Queues a job; lower priorities go first, equal ones in order. A job does not survive a restart.

    Raises: QueueFullError.
    """
    done = asyncio.get_running_loop().create_future()
    done.add_done_callback(lambda done: done.cancelled() or done.exception())     # the worker logs it
    try:
        ctx["biff/queues"][queue_id].put_nowait((priority, next(ctx["biff/job-numbers"]), job, done))
    except asyncio.QueueFull:
        raise QueueFullError(f"The queue {queue_id} holds {QUEUE_JOBS_MAX} jobs, as many as it may.") from None
    return done


async def submit_job_for_result(ctx: dict, queue_id: str, job: Any, priority: int = PRIORITY,
                                timeout_s: float = 20) -> Any:
    """The consumer's result. Raises the consumer's exception, or TimeoutError."""
    return await asyncio.wait_for(submit_job(ctx, queue_id, job, priority), timeout_s)


async def _work(system, queue, consumer):
    while True:
        _, _, job, done = await queue.get()
        try:
            result = await consumer({**assoc_db(system), "biff/job": job})
            done.cancelled() or done.set_result(result)
        except asyncio.CancelledError:
            done.cancel()
            raise
        except Exception as error:
            log.exception("%s failed at a job", name_of(consumer))
            done.cancelled() or done.set_exception(error)
        finally:
            queue.task_done()


async def _drain(queues, workers):
    try:
        await asyncio.wait_for(asyncio.gather(*(queue.join() for queue in queues)), DRAIN_S_MAX)
    except TimeoutError:
        waiting = sum(queue.qsize() for queue in queues)
        log.warning("After %d s jobs are cut off and %d are lost", DRAIN_S_MAX, waiting)
    await end_tasks(workers)


def every(interval_s: float, jitter: float = 0.1) -> Callable[[], Iterator[float]]:
    """A schedule: at once, then after each interval, give or take a tenth, so that servers spread their load."""
    def schedule():
        yield 0
        while True:
            yield interval_s * random.uniform(1 - jitter, 1 + jitter)
    return schedule


async def use_tasks(system: dict) -> dict:
    """Runs each plugin's task {"task", "schedule"}. A schedule, called once, yields the seconds before each run."""
    tasks = [asyncio.create_task(_repeat(system, task["task"], task["schedule"])) for task in parts(system, "tasks")]
    system["biff/stop"].append(functools.partial(end_tasks, tasks))
    return system


async def _repeat(system, function, schedule):
    for wait_s in schedule():
        await asyncio.sleep(wait_s)
        try:
            await function(assoc_db(system))
        except Exception:
            log.exception("The task %s failed", name_of(function))
