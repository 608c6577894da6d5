"""The load that each step carries: one process, several servers on one PostgreSQL, communities over several logs.

    python bench/scaling.py [--people 1000 … 10000000]

For each number of people online, the program finds the least number of logs, and of servers for each log. Then it
simulates the busiest log with all its servers, message by message: from the post to the acknowledgement, and to the
last socket of the channel.

It assumes, for each person online in the busiest minute: one message in five minutes, one page in two minutes, one
socket, memberships in five communities. Communities have 5 to 10,000 people online; their sizes follow a power law
(exponent 1.2). In each, 40 % of the people and messages are in the hot channel, the rest in twenty others. A core is
filled to half, and so is the lock of appends. A server is one process on one core; PostgreSQL has its own machine. The
hash of a community's id chooses its log. Messages come at random (Poisson), seed 1.

The costs of a message, a page and a frame are options. Their defaults were measured, each by the program that its help
names; measure them anew for another machine.
"""

import argparse
import heapq
import math
import random

MESSAGES_S, PAGES_S = 1 / 300, 1 / 120           # of one person online
MEMBERSHIPS = 5
SIZE_MIN, SIZE_MAX, SIZE_EXPONENT = 5, 10_000, 1.2
HOT, OTHERS = 0.4, 20
FULL = 0.5                                       # of a core, or of the lock
SOCKETS_A_SERVER = 50_000                        # biff/sockets.py
SIMULATED = 20_000                               # messages
NETWORK_S = 0.0005                               # one way, server to server

MEASURED = {
    "append_first": (1 / 1_000, "seconds of an append of one transaction, lock to commit (bench/servers.py, 1 poster)"),
    "append_more": (1 / 12_000, "seconds for each further one in the same append (bench/servers.py, 16 posters)"),
    "index": (1 / 9_000, "seconds of a core to follow one transaction (bench/servers.py, catching up)"),
    "post": (0.0015, "seconds of a core to take a post and answer it (bench/fanout.py)"),
    "page": (0.0014, "seconds of a core for a page (bench/rest.py)"),
    "frame": (1 / 100_000, "seconds of a core to write a frame to a socket (bench/fanout.py)"),
}


def communities(people, rng):
    """Sizes of communities that add up to so many people."""
    sizes, left, exponent = [], people, 1 - SIZE_EXPONENT
    low, high = SIZE_MIN ** exponent, min(SIZE_MAX, people) ** exponent
    while left > 0:
        size = min(left, math.ceil((low + rng.random() * (high - low)) ** (1 / exponent)))
        sizes.append(size)
        left -= size
    return sizes


def audience(size, rng):
    """The number of sockets that a message of such a community goes to: those of the hot channel or of another one."""
    return max(1, round(size * (HOT if rng.random() < HOT else (1 - HOT) / OTHERS)))


def frames_a_message(size):
    return size * (HOT * HOT + (1 - HOT) * (1 - HOT) / OTHERS)


def divided(sizes, logs, rng):
    """The communities of the log that has most people."""
    shares = [[] for _ in range(logs)]
    for size in sizes:
        shares[rng.randrange(logs)].append(size)
    return max(shares, key=sum)


def shape(sizes, cost, rng):
    """The least number of logs, and of servers on the busiest one, and that log's communities."""
    logs = 1
    while True:
        busiest = divided(sizes, logs, rng)
        if servers := servers_for(busiest, cost):
            return logs, servers, busiest
        logs = max(logs + 1, logs * 21 // 20)


def servers_for(sizes, cost):
    """The number of servers that carry a log. None if no number does, since each server follows the whole log."""
    people = sum(sizes)
    writes, frames = people * MESSAGES_S, sum(size * MESSAGES_S * frames_a_message(size) for size in sizes)
    following = writes * cost["index"]
    divisible = writes * cost["post"] + people * PAGES_S * cost["page"] + frames * cost["frame"]
    if following >= FULL / 2 or writes * cost["append_more"] >= FULL:
        return None
    return max(1, math.ceil(people / (SOCKETS_A_SERVER * FULL)), math.ceil(divisible / (FULL - following)))


def simulate(sizes, servers, cost, rng):
    """Seconds from a post to its acknowledgement and to the last socket, sorted. Servers append in turns, each all
    that waits there."""
    rate, now, arrivals = sum(sizes) * MESSAGES_S, 0.0, []
    for size in rng.choices(sizes, weights=sizes, k=SIMULATED):
        now += rng.expovariate(rate)
        arrivals.append((now, rng.randrange(servers), audience(size, rng)))
    waiting, turns, free, acked, delivered = [[] for _ in range(servers)], [], 0.0, [], []
    writing = [0.0] * servers                    # until when each server writes frames

    def append(until):
        nonlocal free
        while turns and max(free, turns[0][0]) < until:
            since, server = heapq.heappop(turns)
            batch, waiting[server] = waiting[server], []
            free = max(free, since) + cost["append_first"] + (len(batch) - 1) * cost["append_more"]
            for arrived, reach in batch:
                acked.append(free + cost["index"] - arrived)
                delivered.append(deliver(free, reach) - arrived)

    def deliver(committed, reach):
        """Every server of the log hears of it, and writes its share of the frames after those that it still writes."""
        share = math.ceil(reach / servers) * cost["frame"]
        for server in range(servers):
            writing[server] = max(writing[server], committed + NETWORK_S + cost["index"]) + share
        return max(writing)
    for arrived, server, reach in arrivals:
        append(arrived)
        if not waiting[server]:
            heapq.heappush(turns, (arrived, server))
        waiting[server].append((arrived, reach))
    append(math.inf)
    return sorted(acked), sorted(delivered)


def step(logs, servers):
    return "one process" if logs == servers == 1 else "one PostgreSQL" if logs == 1 else "several logs"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000, 10_000_000])
    for name, (default, what) in MEASURED.items():
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=default,
                            help=f"{what}; default {default:.6f}")
    given = parser.parse_args()
    cost = {name: getattr(given, name) for name in MEASURED}
    print("| people online | messages a second | frames a second | step | logs | servers, all | busiest log: messages "
          "a second | following takes of a core "
          "| to the acknowledgement p50, p99 | to the last socket p50, p99 | logs that a page over five communities "
          "asks |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for people in given.people:
        rng = random.Random(1)
        sizes = communities(people, rng)
        logs, servers, busiest = shape(sizes, cost, rng)
        writes = sum(busiest) * MESSAGES_S
        acked, delivered = simulate(busiest, servers, cost, rng)
        frames = sum(size * MESSAGES_S * frames_a_message(size) for size in sizes)
        at = lambda times: f"{times[len(times) // 2] * 1e3:.1f}, {times[len(times) * 99 // 100] * 1e3:.1f} ms"
        asked = logs * (1 - (1 - 1 / logs) ** MEMBERSHIPS)
        print(f"| {people:,} | {people * MESSAGES_S:,.0f} | {frames:,.0f} | {step(logs, servers)} | {logs} | "
              f"{logs * servers} | {writes:,.0f} | "
              f"{writes * cost['index']:.0%} | {at(acked)} | {at(delivered)} | {asked:.1f} |", flush=True)


if __name__ == "__main__":
    main()
