"""What every iterative solver returns: one answer, and how it was reached."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Solution:
    """The answer of an iterative solver.

    Attributes
    ----------
    value : object
        The answer itself; the solver's docstring says what it is.
    n_iter : int
        Iterations done.
    converged : bool
        Whether the solver's own criterion was met, as opposed to its limit.
    history : dict of str to list
        One entry per recorded quantity, one item per recorded iteration.
    state : object or None
        What the solver needs to go on from here, where it can.
    """

    value: Any
    n_iter: int
    converged: bool
    history: dict[str, list] = field(default_factory=dict, repr=False)
    state: Any = field(default=None, repr=False)
