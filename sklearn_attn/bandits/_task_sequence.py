"""Tasks theta_s = B_i'alpha_s in contexts i = 1, 2, ...  (2205.05820)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_random_state


@dataclass(frozen=True)
class TaskSequence:
    """Tasks one after the other, in contexts that share a subspace each.

    Attributes
    ----------
    coef : ndarray of shape (n_tasks, n_features)
        Coefficients theta_s of each task.
    context_starts : ndarray of int of shape (n_contexts,)
        First task of each context; the first is 0.
    components : tuple of ndarray of shape (rank_i, n_features)
        Orthonormal rows B_i that span each context.

    References
    ----------
    .. [1] Qin, Menara, Oymak, Ching and Pasqualetti, "Representation Learning for
           Context-Dependent Decision-Making", ACC 2022, arXiv:2205.05820.

    Examples
    --------
    >>> from sklearn_attn.bandits import TaskSequence
    >>> tasks = TaskSequence.random([30, 20], ranks=[2, 3], random_state=0)
    >>> tasks.coef.shape, tasks.context_starts.tolist()
    ((50, 20), [0, 30])
    """

    coef: np.ndarray
    context_starts: np.ndarray
    components: tuple

    @classmethod
    def random(
        cls,
        n_tasks: Any,
        ranks: Any,
        n_features: int = 20,
        *,
        norms: Any = (1.0, 1.0),
        random_state: Any = None,
    ) -> "TaskSequence":
        """Draw subspaces and, within each, directions of tasks uniformly.

        Parameters
        ----------
        n_tasks : list of int
            Tasks of each context.
        ranks : list of int
            Dimension of each context.
        n_features : int, default=20
            Number of features d.
        norms : tuple of float, default=(1.0, 1.0)
            Norms of the coefficients are uniform between these.
        random_state : int, RandomState instance or None, default=None
            Determines all that is drawn.

        Returns
        -------
        TaskSequence
            The tasks.

        Raises
        ------
        ValueError
            If numbers do not fit each other or are out of range.
        """
        n_tasks, ranks = list(n_tasks), list(ranks)
        if not n_tasks or len(n_tasks) != len(ranks) or min(n_tasks) < 1:
            raise ValueError(
                "n_tasks and ranks must be as long as each other, with 1 task or more "
                f"each; got {n_tasks} and {ranks}."
            )
        if min(ranks) < 1 or max(ranks) > n_features:
            raise ValueError(
                f"ranks must be between 1 and n_features={n_features}; got {ranks}."
            )
        low, high = norms
        if not 0 <= low <= high < np.inf:
            raise ValueError(f"norms must be 0 or more and rise; got {norms}.")
        rng = check_random_state(random_state)
        components, coef = [], []
        for n, r in zip(n_tasks, ranks):
            B = np.linalg.qr(rng.standard_normal((n_features, r)))[0].T
            alpha = rng.standard_normal((n, r))
            norm = rng.uniform(low, high, (n, 1))
            alpha *= norm / np.linalg.norm(alpha, axis=1, keepdims=True)
            components.append(B)
            coef.append(alpha @ B)
        starts = np.cumsum([0, *n_tasks[:-1]])
        return cls(np.concatenate(coef), starts, tuple(components))

    @property
    def contexts(self) -> np.ndarray:
        """Number of the context of each task."""
        tasks = np.arange(len(self.coef))
        return np.searchsorted(self.context_starts, tasks, side="right") - 1
