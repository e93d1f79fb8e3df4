"""x+ = exp(v_s) ... exp(v_1) x: one step of x' = xi(x).x on a manifold  (2305.08849).

An integrator returns the velocities v_1, ..., v_s of its exponentials, in the order in
which they act. xi gives the velocity at x, `move` is the exponential or the Cayley
transform, [., .] the commutator. On vectors, where all commutes, they are the classical
methods of Euler, of the midpoint, and of Runge and Kutta.
"""


def lie_euler(xi, move, bracket, x, h):
    """The paper's: order 1."""
    return (h * xi(x),)


def lie_midpoint(xi, move, bracket, x, h):
    """Order 2."""
    return (h * xi(move(h / 2 * xi(x), x)),)


def rkmk4(xi, move, bracket, x, h):
    """Runge-Kutta-Munthe-Kaas, with two commutators: order 4."""
    k1 = h * xi(x)
    k2 = h * xi(move(k1 / 2, x))
    k3 = h * xi(move(k2 / 2 - bracket(k1, k2) / 8, x))
    k4 = h * xi(move(k3, x))
    return ((k1 + 2 * k2 + 2 * k3 + k4 - bracket(k1, k4) / 2) / 6,)


def cf4(xi, move, bracket, x, h):
    """Commutator-free, of Celledoni, Marthinsen and Owren: order 4."""
    k1 = h * xi(x)
    half = move(k1 / 2, x)
    k2 = h * xi(half)
    k3 = h * xi(move(k2 / 2, x))
    k4 = h * xi(move(k3 - k1 / 2, half))
    return (
        (3 * k1 + 2 * k2 + 2 * k3 - k4) / 12,
        (-k1 + 2 * k2 + 2 * k3 + 3 * k4) / 12,
    )


INTEGRATORS = {
    "lie_euler": lie_euler,
    "lie_midpoint": lie_midpoint,
    "rkmk4": rkmk4,
    "cf4": cf4,
}
# The Cayley transform agrees with the exponential to second order.
ORDERS_WITH_CAYLEY = {"lie_euler": 1, "lie_midpoint": 2}
