"""What the benchmarks share: contenders in turns, tables, and the command line.

Contenders work in processes of their own, which can be stopped, on one thread unless
told otherwise. They take turns (A B A B ...) on the same problem; every turn is a new
problem (seed 0, 1, ...). A ratio is the median over turns of time / our time. Who is
stopped, or takes longer than `SLOW`, has had its only turn.
"""

import argparse
import os
import platform
import re
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

PACKAGES = ("scikit-learn", "torch", "numpy", "scipy", "cvxpy", "clarabel", "cvxopt")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SPAWN = get_context("spawn")  # torch's threads do not survive a fork
SLOW = 20.0  # seconds
# Of several turns a table shows the worst, where a column is listed here, or the median
WORST = {"gap": max, "above ours": max, "smallest margin": min, "smallest weight": min}


class Contender:
    """A solver in a process of its own, where it makes its problems untimed."""

    def __init__(self, solve, describe, make, warm_up, threads):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        self.pipe, theirs = SPAWN.Pipe()
        work = (theirs, solve, describe, make, warm_up)
        self.process = SPAWN.Process(target=_serve, args=work, daemon=True)
        self.process.start()
        theirs.close()

    def run(self, seed, timeout):
        """Return (seconds, facts), or None if it is late; then it is stopped."""
        self.pipe.send(seed)
        self.pipe.recv()  # the problem is made
        if self.pipe.poll(timeout):
            return self.pipe.recv()
        self.stop()
        return None

    def stop(self):
        """End the process, busy or not."""
        self.process.kill()
        self.process.join()


def _serve(pipe, solve, describe, make, warm_up):
    """Solve a problem for each seed that arrives, until the process is stopped."""
    warnings.simplefilter("ignore")  # of convergence: the tables judge the answers
    describe(warm_up, solve(warm_up))
    pipe.send("warm")
    while True:
        problem = make(seed=pipe.recv())
        pipe.send("made")
        start = time.perf_counter()
        answer = solve(problem)
        seconds = time.perf_counter() - start
        pipe.send((seconds, describe(problem, answer)))


def race(solvers, describe, make, warm_up, *, repeats, timeout, threads=None):
    """Let solvers take turns, and return one row of a table for each.

    Parameters
    ----------
    solvers : dict of str to callable
        `solve(problem)` of each contender; the first is ours.
    describe : callable
        `describe(problem, answer)` returns what a table says beside the time, untimed.
        An "objective" becomes its relative excess over ours.
    make : callable
        `make(seed=...)` returns a problem.
    warm_up : object
        A small problem, solved once before the first turn.
    repeats, timeout : int, float
        Number of turns, and seconds for each.
    threads : dict of str to int, default=None
        Threads of the contenders that have more than one.
    """
    contenders = {
        name: Contender(solve, describe, make, warm_up, (threads or {}).get(name, 1))
        for name, solve in solvers.items()
    }
    for contender in contenders.values():
        contender.pipe.recv()  # it is warm, and does not disturb the others' first turn
    turns = {name: [] for name in solvers}
    for seed in range(repeats):
        for name, contender in contenders.items():
            if contender.process.is_alive():
                turns[name].append(contender.run(seed, timeout))
                if turns[name][-1] is None or turns[name][-1][0] > SLOW:
                    contender.stop()
    for contender in contenders.values():
        contender.stop()
    ours = next(iter(turns.values()))
    return [{"": name} | _row(turns[name], ours, timeout) for name in solvers]


def _row(turns, ours, timeout):
    our_seconds = np.array([seconds for seconds, _ in ours[: len(turns)]])
    if None in turns:
        ratio = f"> {timeout / np.median(our_seconds):.3g}"
        return {"time": f"> {timeout:g} s, stopped", "ratio": ratio}
    seconds = np.array([seconds for seconds, _ in turns])
    facts = [_relative(fact, our_fact) for (_, fact), (_, our_fact) in zip(turns, ours)]
    columns = {
        key: float(WORST.get(key, np.median)([fact[key] for fact in facts]))
        for key in facts[0]
    }
    ratio = f"{np.median(seconds / our_seconds):.3g}"
    return {"time": f"{np.median(seconds):.3g} s", "ratio": ratio} | columns


def _relative(facts, our_facts):
    """Put an objective as its relative excess over ours of the same turn."""
    others = {key: value for key, value in facts.items() if key != "objective"}
    if "objective" not in facts:
        return others
    return {"above ours": facts["objective"] / our_facts["objective"] - 1.0} | others


def peak(problem, solve):
    """Return the resident memory that a fit adds at its peak, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    solve(problem)
    return {"peak beyond the data, MiB": (resident("VmHWM") - before) / 1024}


def resident(name):
    """Read a line of the process's memory, in KiB. Only Linux has these files."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s*(\d+) kB", status)[1])


def as_measured(problem, answer):
    """Describe an answer of `peak` by itself."""
    return answer


def show(title, rows):
    """Print a table in Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        cells = (f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells)
        print(f"| {' | '.join(cells)} |", flush=True)


def run(tables, description):
    """Read the command line and print the tables, between two lines on the machine."""
    tables = {table.__name__: table for table in tables}
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small problems only")
    parser.add_argument(
        "--repeats", type=int, help="turns of each race; 5, or 2 if quick"
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, help="seconds per solve"
    )
    parser.add_argument("--device", default="auto", help="a GPU to measure, or cpu")
    parser.add_argument("--tables", nargs="+", choices=tables, default=list(tables))
    options = parser.parse_args()
    if options.repeats is None:
        options.repeats = 2 if options.quick else 5
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.race = {"repeats": options.repeats, "timeout": options.timeout}
    _describe_machine(options)
    for name in options.tables:
        tables[name](options)
    print()
    _describe_machine(options)


def _version(name):
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:  # no table here needs it
        return ""


def _describe_machine(options):
    cpuinfo = Path("/proc/cpuinfo")
    found = cpuinfo.exists() and re.search(r"model name\s*: (.*)", cpuinfo.read_text())
    print(
        f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}, "
        f"{', '.join(filter(None, map(_version, PACKAGES)))}; device "
        f"{options.device}; {options.repeats} turns; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
