"""Who carries requests to the clients and brings their weighted sums back.

An engine has `numbers` and `weights` of its clients, `ask(request)`, which returns the
sum of what they answer and which of them are "lost", and `close()`.
"""

import torch

from ._clients import ClientBlock


class VmapEngine:
    """All clients in this process, worked on together.

    Parameters
    ----------
    block : ClientBlock
        The clients.
    """

    def __init__(self, block):
        self.block = block
        self.numbers, self.weights = block.numbers, block.weights

    def ask(self, request):
        """Return the answer of the clients, none of whom can be lost.

        Parameters
        ----------
        request : dict
            What is wanted, of which clients.

        Returns
        -------
        dict
            As of `ClientBlock.answer`, with "lost".
        """
        return self.block.answer(request) | {"lost": []}

    def close(self):
        """Do nothing: there is nothing to close."""


def open_engine(
    engine, problem, clients, weights, *, options, device, dtype=torch.float64
):
    """Return the engine of this name over the clients; an engine is returned as is."""
    if not isinstance(engine, str):
        return engine
    options = dict(options or {})
    if engine == "vmap":
        if options:
            raise ValueError(f"engine='vmap' has no options; got {sorted(options)}.")
        return VmapEngine(
            ClientBlock(problem, clients, weights=weights, device=device, dtype=dtype)
        )
    if engine == "gloo":
        from ._gloo_engine import local_gloo_engine

        return local_gloo_engine(
            problem, clients, weights=weights, device=device, dtype=dtype, **options
        )
    from ._flower_engine import local_flower_engine

    return local_flower_engine(
        problem, clients, weights=weights, device=device, dtype=dtype, **options
    )
