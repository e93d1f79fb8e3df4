"""What psychologists count in the Wisconsin Card Sorting Task  (2205.05820)."""

from typing import Any

import numpy as np


def card_sorting_scores(result: Any) -> dict:
    """Count errors, and how many of them come of a rule that holds no more.

    Parameters
    ----------
    result : SimulationResult
        A game of :class:`WisconsinCardSortingEnv`.

    Returns
    -------
    dict
        ``"accuracy"``, the share of right answers; ``"errors"``;
        ``"errors_per_switch"``, those after the first change of the rule, for each
        change; NaN if there was none; ``"perseverative_errors"``, those that the rule
        before would have called right; ``"categories"`` completed; ``"trials"``.

    Raises
    ------
    ValueError
        If it was another game.

    Examples
    --------
    >>> from sklearn_attn.bandits import TabularQAgent, WisconsinCardSortingEnv
    >>> from sklearn_attn.bandits import card_sorting_scores, run
    >>> game = WisconsinCardSortingEnv()
    >>> scores = card_sorting_scores(run(TabularQAgent(random_state=0), game, 100))
    >>> scores["trials"], scores["accuracy"] < 0.6
    (100, True)
    """
    missing = {"correct", "switched", "perseverative", "categories"} - set(result.info)
    if missing:
        raise ValueError(
            "The result must be of a WisconsinCardSortingEnv; it does not tell "
            f"{', '.join(sorted(missing))}."
        )
    wrong = ~result.info["correct"]
    switches = np.flatnonzero(result.info["switched"])
    n_switches = len(switches)
    return {
        "accuracy": float(result.info["correct"].mean()),
        "errors": int(wrong.sum()),
        "errors_per_switch": float(wrong[switches[0] :].sum() / n_switches)
        if n_switches
        else float("nan"),
        "perseverative_errors": int(result.info["perseverative"].sum()),
        "categories": int(result.info["categories"][-1]),
        "trials": len(wrong),
    }
