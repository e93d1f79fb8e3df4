"""A progress bar for each candidate, on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from ._comparison_result import NAME_WIDTH, shorten


@contextmanager
def progress_bars(names, n_steps, progress) -> Iterator[Callable[..., None]]:
    """Give ``advance(name, failed=False)``; it draws on standard error, or nothing."""
    if progress not in (True, False, "auto"):
        raise ValueError(f'progress must be True, False or "auto", got {progress!r}')
    if progress == "auto":
        progress = sys.stderr.isatty() and find_spec("rich") is not None
    if not progress:
        yield lambda name, failed=False: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as bars:
        titles = {name: escape(shorten(name, NAME_WIDTH)) for name in names}
        tasks = {name: bars.add_task(titles[name], total=n_steps) for name in names}

        def advance(name, failed=False):
            bars.advance(tasks[name])
            if failed:
                text = f"{titles[name]} [red]failed[/red]"
                bars.update(tasks[name], description=text)

        yield advance
