"""
The card task: who notices that the rule has changed?
=====================================================

Cards are sorted by shape, number or colour, and every 20 trials the rule changes
without notice. Look at the lines after each border: who knows that there are three
rules loses a card or two, who learns card by card begins anew each time. The first
panel shows a card that was laid to the table card of the same colour.

Trial and error takes any other rule after a failure, and makes two errors at a change
on average. Elimination leaves out all rules that a card has contradicted, and learns
from cards on which rules agree. Q-learning and a deep Q-network do learn a rule that
stays, as the last panel shows, but need hundreds of cards for it.

Takes about 20 seconds.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_attn.bandits import (
    CardSortingDisplay,
    ContextualRepresentationBandit,
    DQNAgent,
    RandomPolicy,
    TabularQAgent,
    WisconsinCardSortingEnv,
    card_sorting_scores,
    run,
)

RULES = np.eye(3)
N_GAMES = 20


def ours(rule):
    return lambda seed: ContextualRepresentationBandit(
        candidates=RULES, candidate_rule=rule, random_state=seed
    )


AGENTS = {
    "elimination": ours("eliminate"),
    "trial and error (the paper)": ours("random"),
    "deep Q-network": lambda seed: DQNAgent(random_state=seed),
    "tabular Q-learning": lambda seed: TabularQAgent(random_state=seed),
    "random": RandomPolicy,
}


def play(agent, seed, **options):
    game = WisconsinCardSortingEnv(**options)
    if isinstance(agent, ContextualRepresentationBandit):
        return agent.simulate(game, seed=seed)
    view = game.action_set if isinstance(agent, RandomPolicy) else None
    return run(agent, game, game.n_trials, seed=seed, view=view)


# %%

results = {
    name: [play(make(seed), seed) for seed in range(N_GAMES)]
    for name, make in AGENTS.items()
}
figure = plt.figure(figsize=(12, 8), layout="constrained")
top, bottom = figure.subplots(2, 2, width_ratios=(1, 1.7))

game = WisconsinCardSortingEnv()
card, _ = game.reset(seed=0)
game.step(int(card[2]))
top[0].imshow(game.render())
top[0].set_axis_off()

CardSortingDisplay.from_results(results, ax=top[1])
top[1].set_title(f"The rule changes every 20 trials: mean of {N_GAMES} games")

# %%
# What psychologists count: errors for each change of the rule, and those among all
# errors that the old rule would have called right.

scores = {
    name: [card_sorting_scores(game) for game in games]
    for name, games in results.items()
}
names = list(AGENTS)
for i, (key, label) in enumerate(
    {"errors_per_switch": "errors", "perseverative_errors": "by the old rule"}.items()
):
    n_switches = 4 if key == "perseverative_errors" else 1
    means = [np.mean([s[key] for s in scores[n]]) / n_switches for n in names]
    places = np.arange(len(names)) + 0.4 * i
    bottom[0].barh(places, means, 0.4, color=("0.75", "0.45")[i], label=label)
bottom[0].set_yticks(np.arange(len(names)) + 0.2, names)
bottom[0].invert_yaxis()
bottom[0].set(xlabel="errors for each change of the rule", xlim=(0, None))
bottom[0].legend(frameon=False)
bottom[0].spines[["top", "right"]].set_visible(False)

stays = {
    name: [play(AGENTS[name](s), s, block=1000, n_trials=1000) for s in range(3)]
    for name in names[2:]
}
CardSortingDisplay.from_results(stays, ax=bottom[1])
bottom[1].plot([1, 1000], [1, 1000], color="0.6", lw=0.8)
bottom[1].set_title("One rule for 1000 trials: those who learn card by card do learn")
plt.show()
