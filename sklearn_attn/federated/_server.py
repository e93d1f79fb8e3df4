"""The server's side of a federation: what it asks, and what it learns of the maps.

The curvature L of the mean map is found by power iteration, as is the heterogeneity
tau = max_m |(F_m' - mean F') t|, both from products that clients sum (2306.01648).
"""

import torch

# An automatic step is this share of the inverse curvature, which may grow on the way.
SHARE_OF_CURVATURE = 0.5
NOT_FINITE = (
    "The maps of the clients are NaN or infinite where x and z start; look at their "
    "data, and at where the problem starts."
)
N_POWER_STEPS = 10  # of power iteration: within some per cent for the curvature


class Server:
    """Asks the clients, and keeps the books: messages, numbers sent, who is lost."""

    def __init__(self, engine, layout, *, seed, batch_size, device, dtype):
        self.engine, self.layout = engine, layout
        self.seed, self.batch_size = seed, batch_size
        self.device, self.dtype = device, dtype
        self.communications = self.floats = 0
        self.lost_now = []

    @property
    def numbers(self):
        """Numbers of all clients."""
        return list(self.engine.numbers)

    def ask(self, kind, n_round, clients=None, **content):
        """Return (weighted mean, mean value, largest), or None if nobody answered."""
        clients = self.numbers if clients is None else clients
        reply = self.engine.ask(
            {
                "kind": kind,
                "round": n_round,
                "seed": self.seed,
                "batch_size": self.batch_size,
                "clients": torch.as_tensor(clients, dtype=torch.int64),
                **content,
            }
        )
        down = sum(
            part.numel() for part in content.values() if isinstance(part, torch.Tensor)
        )
        self.communications += 1
        self.floats += len(clients) * down + len(reply["answered"]) * self.layout.size
        self.lost_now.extend(m for m in reply["lost"] if m not in self.lost_now)
        if not reply["weight"] > 0:
            return None
        mean = reply["total"].to(self.device, self.dtype) / reply["weight"]
        return mean, reply["value"] / reply["weight"], reply["largest"]

    def field(self, u, n_round=0):
        """Return the mean map at one point."""
        return self.must_ask("field", n_round, at=u[None], coef=torch.ones(1))[0]

    def must_ask(self, kind, n_round, clients=None, **content):
        """Ask; a ConnectionError if nobody answers."""
        reply = self.ask(kind, n_round, clients, **content)
        if reply is None:
            raise ConnectionError(
                f"None of the clients answered in round {n_round} ({kind}). Are their "
                "processes still running, and is the time limit long enough?"
            )
        return reply


def curvature(server, u, block):
    """Return the largest curvature of the mean map within a block, from below."""
    t = _direction(u, block)
    L = 0.0
    for _ in range(N_POWER_STEPS):
        after, *_ = server.must_ask("jvp", 0, at=u, tangent=t, batch_size=0)
        inside = torch.zeros_like(after)
        inside[block] = after[block]
        if not bool(inside.isfinite().all()):
            raise ValueError(NOT_FINITE)
        L = max(L, float(inside.norm()))
        if not inside.norm() > 0:
            break
        t = inside / inside.norm()
    return L


def heterogeneity(server, u, block, n_steps=3):
    """Return max_m |(F_m' - mean F') t| within a block, for the t that spreads most."""
    t = _direction(u, block)
    rows = torch.zeros_like(u)
    rows[block] = 1.0
    largest = 0.0
    for _ in range(n_steps):
        mean, *_ = server.must_ask("jvp", 0, at=u, tangent=t, batch_size=0)
        after, _, norm = server.must_ask(
            "spread", 0, at=u, tangent=t, mean=mean, rows=rows, batch_size=0
        )
        largest = max(largest, norm)
        if not after.norm() > 0:
            break
        t = after / after.norm()
    return largest


def _direction(u, block):
    """Return a unit vector within a block, always the same, of no special direction."""
    generator = torch.Generator().manual_seed(0)
    t = torch.zeros_like(u)
    drawn = torch.randn(block.stop - block.start, generator=generator, dtype=u.dtype)
    t[block] = drawn.to(u.device)
    return t / t.norm()
