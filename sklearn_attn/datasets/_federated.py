"""Clients m of a federation: sum_m P^m(x, z) = 0, sum_m S^m(x, z) = 0  (2306.01648).

Quadratic functions of known solution, digits with a long tail or with wrong labels, and
decision processes with rewards of their own.
"""

from numbers import Integral

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_random_state

from ._digits import _PIXEL_MAXIMUM, _SPLIT_SEED

N_DIGITS = 10
# Mean rewards lie between these, so that all differences fit that are documented.
_MEAN_REWARDS = (1 / 3, 2 / 3)
# An action mostly leads to one state or two: what comes after it matters ...
_CONCENTRATION = 0.3
# ... and now and then to any state, so that no policy keeps away from one.
_JUMPS = 0.05
# Rounding of values in units of a reward: a better action is better by more than that.
_ROUNDING = 1e-12


def make_federated_quadratic(
    n_clients=10,
    *,
    n_outer=3,
    n_inner=5,
    heterogeneity=0.3,
    smallest=1.0,
    largest=2.0,
    outer_l2=1.0,
    random_state=None,
):
    """Generate a quadratic bilevel problem over clients, and its exact solution.

    Client m has the inner function g = w'A_m w / 2 - w'(B_m x + b_m) and the outer
    function f = ||w - c_m||^2 / 2 + nu ||x||^2 / 2. Clients differ from their mean by
    parts that sum to zero: neither their number nor how much they differ changes the
    solution.

    Parameters
    ----------
    n_clients : int, default=10
        Number of clients M.
    n_outer : int, default=3
        Length of the outer variable x.
    n_inner : int, default=5
        Length of the inner variable w.
    heterogeneity : float, default=0.3
        How far clients are from their mean: the largest spectral norm of a difference
        in A, and in B, and the standard deviation of differences in b and c. With 0
        all clients are the same. From `smallest` on, the matrix A of a single client
        may have negative eigenvalues, and so no inner minimum, while the mean has one.
    smallest : float, default=1.0
        Smallest eigenvalue of the mean of A. Eigenvalues are equally spaced.
    largest : float, default=2.0
        Largest eigenvalue of the mean of A.
    outer_l2 : float, default=1.0
        The penalty nu of x; positive.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn. The same int gives the same means for any number
        of clients and any `heterogeneity`.

    Returns
    -------
    data : Bunch
        The problem and its solution:

        - A : ndarray of shape (n_clients, n_inner, n_inner), symmetric;
        - B : ndarray of shape (n_clients, n_inner, n_outer);
        - b, c : ndarray of shape (n_clients, n_inner);
        - nu : float, the penalty;
        - x : ndarray of shape (n_outer,), the outer solution;
        - w : ndarray of shape (n_inner,), the inner one, A w = B x + b with means;
        - v : ndarray of shape (n_inner,), the adjoint, A v = w - c with means.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    sklearn_attn.federated.fedmsa : A solver.

    Notes
    -----
    With means A, B, b, c the gradient of f(x, w(x)) is nu x + B'v. It vanishes where
    (G'G + nu I) x = G'(c - A^-1 b) for G = A^-1 B.

    References
    ----------
    .. [1] Tarzanagh, Li, Sharma and Oymak, "Federated Multi-Sequence Stochastic
           Approximation with Local Hypergradient Estimation", arXiv:2306.01648, for
           the problem. The family of quadratics is ours.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_federated_quadratic
    >>> data = make_federated_quadratic(random_state=0)
    >>> data.A.shape, data.B.shape, data.b.shape
    ((10, 5, 5), (10, 5, 3), (10, 5))
    >>> A, B, b, c = (data[name].mean(axis=0) for name in "ABbc")
    >>> bool(abs(A @ data.w - B @ data.x - b).max() < 1e-12)
    True
    >>> bool(abs(data.nu * data.x + B.T @ data.v).max() < 1e-12)
    True
    """
    _require_counts(n_clients=n_clients, n_outer=n_outer, n_inner=n_inner)
    _require(
        heterogeneity=(heterogeneity, 0 <= heterogeneity < np.inf, "finite, 0 or more"),
        smallest=(smallest, 0 < smallest < np.inf, "positive and finite"),
        largest=(
            largest,
            smallest <= largest < np.inf,
            f"finite, and smallest={smallest!r} or more",
        ),
        outer_l2=(outer_l2, 0 < outer_l2 < np.inf, "positive and finite"),
    )
    rng = check_random_state(random_state)
    # all means before the differences, which are as many as there are clients
    Q, _ = np.linalg.qr(rng.standard_normal((n_inner, n_inner)))
    A = Q * np.linspace(smallest, largest, n_inner) @ Q.T
    A = (A + A.T) / 2  # to the last digit
    B = rng.standard_normal((n_inner, n_outer))
    b, c = rng.standard_normal((2, n_inner))
    G, free = np.linalg.solve(A, B), np.linalg.solve(A, b)
    x = np.linalg.solve(G.T @ G + outer_l2 * np.eye(n_outer), G.T @ (c - free))
    w = G @ x + free

    E = rng.standard_normal((n_clients, n_inner, n_inner))
    dA = _differences(E + E.transpose(0, 2, 1), _spectral)
    dB = _differences(rng.standard_normal((n_clients, n_inner, n_outer)), _spectral)
    db = _differences(rng.standard_normal((n_clients, n_inner)))
    dc = _differences(rng.standard_normal((n_clients, n_inner)))
    return Bunch(
        A=A + heterogeneity * dA,
        B=B + heterogeneity * dB,
        b=b + heterogeneity * db,
        c=c + heterogeneity * dc,
        nu=outer_l2,
        x=x,
        w=w,
        v=np.linalg.solve(A, w - c),
    )


def make_longtail_clients(
    n_clients=10,
    *,
    imbalance=0.05,
    heterogeneity=0.5,
    subset="train",
    test_size=0.4,
    random_state=None,
):
    """Generate clients that hold digits, of which some classes are rare.

    Among the images for training, digit i keeps a share of imbalance^(i / 9): there are
    372 by default, 107 zeros and 6 nines. The images for testing are all shown, and so
    balanced: a classifier that learnt from the former forgets the rare digits there.

    Parameters
    ----------
    n_clients : int, default=10
        Number of clients.
    imbalance : float, default=0.05
        Share of the nines that is kept; above 0. With 1 all images are.
    heterogeneity : float, default=0.5
        Share q of the images of client m that are of its dominant digit, m modulo 10.
        The rest is dealt at random, and may be of that digit too. Clients have as many
        images, up to one, whatever is rare. So where a digit has fewer images than its
        clients want, they get all of them, in turn, and the random rest is longer: by
        default the clients of zeros to fives reach q, and that of nines holds 6 of them
        among its 37 images.
    subset : {"train", "test"}, default="train"
        Whether to show the images for training or those for testing. The latter are
        dealt in the same way, and no digit is rare.
    test_size : float, default=0.4
        Share of each digit's bundled images that are for testing.
    random_state : int, RandomState instance or None, default=None
        Determines which images are kept, and who holds them. Which are for testing
        depends on `test_size` only: no draw for training shows one of them.

    Returns
    -------
    X : ndarray of shape (n, 64)
        The images, client after client, and within a client in random order. Pixels
        are between 0 and 1. Each image is there once.
    y : ndarray of int of shape (n,)
        The digits.
    clients : ndarray of int of shape (n,)
        The client of each image, from 0 on.

    Raises
    ------
    ValueError
        If a number is out of range, or there are more clients than images.

    See Also
    --------
    make_noisy_clients : Digits in clients, some of which have wrong labels.
    make_permuted_digit_tasks : Digits in tasks that permute pixels.

    References
    ----------
    .. [1] Tarzanagh, Li, Sharma and Oymak, "Federated Multi-Sequence Stochastic
           Approximation with Local Hypergradient Estimation", arXiv:2306.01648: their
           imbalanced clients, which hold MNIST with an imbalance of 0.01.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.datasets import make_longtail_clients
    >>> X, y, clients = make_longtail_clients(random_state=0)
    >>> X.shape, np.bincount(clients).tolist()
    ((372, 64), [38, 38, 37, 37, 37, 37, 37, 37, 37, 37])
    >>> np.bincount(y).tolist()
    [107, 79, 55, 41, 29, 21, 15, 11, 8, 6]
    >>> X_test, y_test, clients_test = make_longtail_clients(subset="test")
    >>> np.bincount(y_test).tolist()
    [71, 73, 71, 73, 72, 73, 72, 72, 70, 72]
    """
    _require_counts(n_clients=n_clients)
    _require(
        imbalance=(imbalance, 0 < imbalance <= 1, "above 0, and 1 at most"),
        heterogeneity=(heterogeneity, 0 <= heterogeneity <= 1, "between 0 and 1"),
    )
    images, labels = _stratified_digits(subset, test_size)
    rng = check_random_state(random_state)
    if subset == "train":
        kept = np.concatenate(
            [
                _first(share, rng.permutation(np.flatnonzero(labels == digit)))
                for digit, share in enumerate(imbalance ** (np.arange(N_DIGITS) / 9))
            ]
        )
        images, labels = images[kept], labels[kept]
    _require_images(n_clients, labels, subset)
    clients = _deal_dominant(labels, n_clients, heterogeneity, rng)
    rows = _client_after_client(clients, rng)
    return images[rows], labels[rows], clients[rows]


def make_noisy_clients(
    n_clients=10,
    *,
    n_clean=2,
    noise=0.5,
    subset="train",
    test_size=0.4,
    random_state=None,
):
    """Generate clients that hold digits, and of which some have wrong labels.

    Images are dealt evenly: clients have as many of each digit, up to one, and differ
    by their labels only. Who has wrong ones, and which are wrong, is to be found out.

    Parameters
    ----------
    n_clients : int, default=10
        Number of clients.
    n_clean : int, default=2
        Number of clients whose labels are all right, the first ones.
    noise : float or array-like of shape (n_clients - n_clean,), default=0.5
        Share of the labels of each of the other clients that are wrong, up to rounding
        to whole images; between 0 and 1. A wrong label is any of the nine others.
    subset : {"train", "test"}, default="train"
        Whether to show the images for training or those for testing. Of the latter all
        labels are right.
    test_size : float, default=0.4
        Share of each digit's bundled images that are for testing.
    random_state : int, RandomState instance or None, default=None
        Determines who holds which images, and which labels are wrong. Which images are
        for testing depends on `test_size` only.

    Returns
    -------
    X : ndarray of shape (n, 64)
        The images, client after client, and within a client in random order. Pixels
        are between 0 and 1. Each image is there once.
    y : ndarray of int of shape (n,)
        The labels, right and wrong.
    clients : ndarray of int of shape (n,)
        The client of each image, from 0 on.
    wrong : ndarray of bool of shape (n,)
        Whether the label is wrong.

    Raises
    ------
    ValueError
        If a number is out of range, or there are more clients than images.

    See Also
    --------
    make_longtail_clients : Digits in clients, some of which are rare.

    References
    ----------
    .. [1] Tarzanagh, Li, Sharma and Oymak, "Federated Multi-Sequence Stochastic
           Approximation with Local Hypergradient Estimation", arXiv:2306.01648, for
           bilevel problems over clients. The wrong labels are not from there.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.datasets import make_noisy_clients
    >>> X, y, clients, wrong = make_noisy_clients(
    ...     4, n_clean=1, noise=[0.1, 0.3, 0.5], random_state=0
    ... )
    >>> np.bincount(clients).tolist(), np.bincount(clients[wrong]).tolist()
    ([270, 270, 269, 269], [0, 27, 81, 134])
    >>> X_test, y_test, *_, wrong = make_noisy_clients(4, subset="test", random_state=0)
    >>> X_test.shape, bool(wrong.any())
    ((719, 64), False)
    """
    _require_counts(n_clients=n_clients)
    _require(
        n_clean=(
            n_clean,
            isinstance(n_clean, Integral) and 0 <= n_clean <= n_clients,
            f"an integer between 0 and n_clients={n_clients}",
        )
    )
    shares = np.zeros(n_clients)
    shares[n_clean:] = _shares(noise, n_clients - n_clean)
    images, labels = _stratified_digits(subset, test_size)
    _require_images(n_clients, labels, subset)

    rng = check_random_state(random_state)
    n = len(labels)
    order = rng.permutation(n)
    order = order[np.argsort(labels[order], kind="stable")]
    clients = np.empty(n, dtype=int)
    clients[order] = np.arange(n) % n_clients
    rows = _client_after_client(clients, rng)
    X, y, clients = images[rows], labels[rows], clients[rows]
    wrong = np.zeros(n, dtype=bool)
    if subset == "train":
        for client, share in enumerate(shares):
            held = np.flatnonzero(clients == client)
            n_wrong = round(share * len(held))
            wrong[rng.choice(held, n_wrong, replace=False)] = True
    y[wrong] = (y[wrong] + rng.randint(1, N_DIGITS, size=wrong.sum())) % N_DIGITS
    return X, y, clients, wrong


def make_federated_mdp(
    n_clients=4,
    *,
    n_states=5,
    n_actions=3,
    heterogeneity=0.3,
    gamma=0.9,
    random_state=None,
):
    """Generate a decision process that clients reward differently, and its optimum.

    Clients share the transitions. Their rewards differ from the mean of all by parts
    that sum to zero: neither their number nor how much they differ changes which policy
    is best for the mean.

    Parameters
    ----------
    n_clients : int, default=4
        Number of clients.
    n_states : int, default=5
        Number of states.
    n_actions : int, default=3
        Number of actions in each state.
    heterogeneity : float, default=0.3
        Largest difference of a client's reward from the mean one, between 0 and 1/3.
        Mean rewards are between 1/3 and 2/3, so that all rewards are between 0 and 1.
        With 0 all clients are the same; by default, what is best for one client is
        seldom best for the mean.
    gamma : float, default=0.9
        Discount of later rewards, from 0 to below 1.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn. The same int gives the same transitions and mean
        rewards for any number of clients and any `heterogeneity`.

    Returns
    -------
    data : Bunch
        The process, and what is best for the mean of the rewards:

        - transitions : ndarray of shape (n_states, n_actions, n_states), probabilities
          of the next state: all of them positive, so that every policy visits all
          states again and again;
        - rewards : ndarray of shape (n_clients, n_states, n_actions), between 0 and 1;
        - initial : ndarray of shape (n_states,), the law of the first state, uniform;
        - gamma : float, the discount;
        - policy : ndarray of int of shape (n_states,), the best action of each state;
        - value : ndarray of shape (n_states,), the discounted sum of mean rewards from
          each state on under that policy;
        - optimum : float, (1 - gamma) initial'value: the most that a policy's
          ``ActorCriticProblem.value`` can be for the mean of the rewards.

    Raises
    ------
    ValueError
        If a number is out of range.

    See Also
    --------
    sklearn_attn.federated.ActorCriticProblem : Learning a policy from clients.

    Notes
    -----
    Policy iteration ends after finitely many steps at the solution of Bellman's
    equation V(s) = max_a r(s, a) + gamma sum_t P(t | s, a) V(t).

    References
    ----------
    .. [1] Tarzanagh, Li, Sharma and Oymak, "Federated Multi-Sequence Stochastic
           Approximation with Local Hypergradient Estimation", arXiv:2306.01648, for
           actors and critics over clients. The processes are ours.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_federated_mdp
    >>> data = make_federated_mdp(random_state=0)
    >>> data.transitions.shape, data.rewards.shape, data.policy.shape
    ((5, 3, 5), (4, 5, 3), (5,))
    >>> reward = data.rewards.mean(axis=0)
    >>> later = data.gamma * data.transitions @ data.value
    >>> bool(abs((reward + later).max(axis=1) - data.value).max() < 1e-12)
    True
    """
    _require_counts(n_clients=n_clients, n_states=n_states, n_actions=n_actions)
    low, high = _MEAN_REWARDS
    _require(
        heterogeneity=(heterogeneity, 0 <= heterogeneity <= low, "between 0 and 1/3"),
        gamma=(gamma, 0 <= gamma < 1, "0 or more, and below 1"),
    )
    rng = check_random_state(random_state)
    law = np.full(n_states, _CONCENTRATION)
    P = rng.dirichlet(law, size=(n_states, n_actions))
    P = (1 - _JUMPS) * P + _JUMPS / n_states
    reward = rng.uniform(low, high, size=(n_states, n_actions))
    # differences last: as many as there are clients
    D = _differences(rng.uniform(-1, 1, size=(n_clients, *reward.shape)), np.abs)
    initial = np.full(n_states, 1 / n_states)
    policy, value = _policy_iteration(P, reward, gamma)
    return Bunch(
        transitions=P,
        rewards=np.clip(reward + heterogeneity * D, 0, 1),  # by rounding, if at all
        initial=initial,
        gamma=gamma,
        policy=policy,
        value=value,
        optimum=float((1 - gamma) * initial @ value),
    )


def _differences(drawn, norm=None):
    """Return differences from the mean client, the largest norm scaled to 1."""
    D = drawn - drawn.mean(axis=0)
    if norm is None or len(D) == 1:  # the only client is the mean
        return D
    return D / norm(D).max()


def _spectral(D):
    return np.linalg.norm(D, 2, axis=(1, 2))


def _policy_iteration(P, reward, gamma):
    """Return the best actions, and the values of states under them."""
    states = np.arange(len(P))
    policy = reward.argmax(axis=1)
    while True:
        step = np.eye(len(P)) - gamma * P[states, policy]
        V = np.linalg.solve(step, reward[states, policy])
        Q = reward + gamma * P @ V
        # equally good actions must not take turns for ever
        gain = (1 - gamma) * (Q.max(axis=1) - Q[states, policy])
        if gain.max() <= _ROUNDING:
            return policy, V
        policy = np.where(gain > _ROUNDING, Q.argmax(axis=1), policy)


def _stratified_digits(subset, test_size):
    """Return images with pixels between 0 and 1, and labels, of a subset."""
    _require(
        subset=(subset, subset in ("train", "test"), "'train' or 'test'"),
        test_size=(test_size, 0 < test_size < 1, "a share between 0 and 1"),
    )
    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=float(test_size),
        stratify=labels,
        random_state=_SPLIT_SEED,
    )
    part = train if subset == "train" else test
    return images[part] / _PIXEL_MAXIMUM, labels[part]


def _first(share, rows):
    return rows[: int(np.ceil(share * len(rows)))]


def _deal_dominant(labels, n_clients, q, rng):
    """Return the client of each image: the dominant digit first, then what is left."""
    sizes = len(labels) // n_clients + (np.arange(n_clients) < len(labels) % n_clients)
    wanted = np.rint(q * sizes).astype(int)
    clients = np.full(len(labels), -1)
    for digit in range(N_DIGITS):
        takers = range(digit, n_clients, N_DIGITS)
        places = [m for turn in range(wanted.max()) for m in takers if turn < wanted[m]]
        dealt = rng.permutation(np.flatnonzero(labels == digit))[: len(places)]
        clients[dealt] = places[: len(dealt)]
    left = clients < 0
    missing = sizes - np.bincount(clients[~left], minlength=n_clients)
    clients[left] = rng.permutation(np.repeat(np.arange(n_clients), missing))
    return clients


def _client_after_client(clients, rng):
    """Return an order of rows by client, and at random within a client."""
    rows = rng.permutation(len(clients))
    return rows[np.argsort(clients[rows], kind="stable")]


def _shares(noise, n_noisy):
    """Return the share of wrong labels of each client that has some."""
    shares = np.asarray(noise, dtype=float)
    if shares.shape not in ((), (n_noisy,)):
        raise ValueError(
            "noise must be a number, or one for each of the n_clients - n_clean = "
            f"{n_noisy} clients with wrong labels; got shape {shares.shape}."
        )
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"noise must be shares between 0 and 1; got {noise!r}.")
    return shares


def _require_images(n_clients, labels, subset):
    if n_clients > len(labels):
        raise ValueError(
            f"n_clients={n_clients} are more than the {len(labels)} images of the "
            f"{subset} subset; each client needs one at least."
        )


def _require_counts(**counts):
    for name, value in counts.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be an integer of 1 or more; got {value!r}.")


def _require(**requirements):
    """Refuse the first of the parameters that is out of its range."""
    for name, (value, is_met, wanted) in requirements.items():
        if not is_met:
            raise ValueError(f"{name} must be {wanted}; got {value!r}.")
