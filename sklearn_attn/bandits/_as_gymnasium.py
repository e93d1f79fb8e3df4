"""Games with gymnasium's methods, as environments for libraries that insist on them."""

from typing import Any


def as_gymnasium(game: Any) -> Any:
    """Return an environment that passes on every call to a game."""
    import gymnasium

    class _Environment(gymnasium.Env):
        metadata = game.metadata
        observation_space = game.observation_space
        action_space = game.action_space
        n_rounds = game.n_rounds

        @property
        def n_left(self):
            return game.n_left

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return game.reset(seed=seed, options=options)

        def step(self, action):
            return game.step(action)

    return _Environment()
