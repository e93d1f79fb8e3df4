"""What the generators of federations promise."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sklearn_attn.datasets import (
    make_federated_mdp,
    make_federated_quadratic,
    make_longtail_clients,
    make_noisy_clients,
)
from sklearn_attn.federated import ActorCriticProblem

# Sums and solutions of a few numbers of order 1: some hundred roundings of 2e-16.
ROUNDING = 1e-12
DIGIT_GENERATORS = [make_longtail_clients, make_noisy_clients]


@pytest.mark.parametrize(
    "make",
    [
        make_federated_quadratic,
        make_federated_mdp,
        make_longtail_clients,
        make_noisy_clients,
    ],
)
def test_a_seed_repeats_the_clients(make):
    first, again, other = (make(random_state=seed) for seed in (0, 0, 1))
    pairs = (
        [(first[key], again[key], other[key]) for key in first]
        if isinstance(first, dict)
        else list(zip(first, again, other))
    )
    for one, two, _ in pairs:
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(pairs[0][0], pairs[0][2])


@pytest.mark.parametrize("sizes", [(10, 3, 5), (3, 6, 2), (1, 1, 1)])
@pytest.mark.parametrize("heterogeneity", [0.3, 2.0])
def test_the_quadratic_solution_solves_the_equations_of_the_means(sizes, heterogeneity):
    n_clients, n_outer, n_inner = sizes
    data = make_federated_quadratic(
        n_clients,
        n_outer=n_outer,
        n_inner=n_inner,
        heterogeneity=heterogeneity,
        outer_l2=0.2,
        random_state=0,
    )
    assert data.A.shape == (n_clients, n_inner, n_inner)
    assert data.B.shape == (n_clients, n_inner, n_outer)
    assert data.b.shape == data.c.shape == (n_clients, n_inner)
    A, B, b, c = (data[name].mean(axis=0) for name in "ABbc")
    residuals = (
        A @ data.w - B @ data.x - b,
        A @ data.v - (data.w - c),
        data.nu * data.x + B.T @ data.v,
    )
    assert data.nu == 0.2
    assert max(abs(residual).max() for residual in residuals) < ROUNDING


def test_no_outer_variable_does_better_than_the_quadratic_solution():
    data = make_federated_quadratic(random_state=1)
    A, B, b, c = (data[name].mean(axis=0) for name in "ABbc")

    def outer(x):
        w = np.linalg.solve(A, B @ x + b)
        return ((w - c) ** 2).sum() / 2 + data.nu * x @ x / 2

    moves = np.vstack([np.eye(3), -np.eye(3)]) / 100
    assert all(outer(data.x) < outer(data.x + move) for move in moves)


def test_quadratic_means_have_the_spectrum_that_was_asked_for():
    data = make_federated_quadratic(smallest=0.5, largest=2.5, random_state=0)
    np.testing.assert_array_equal(data.A, data.A.transpose(0, 2, 1))
    np.testing.assert_allclose(
        np.linalg.eigvalsh(data.A.mean(axis=0)), [0.5, 1, 1.5, 2, 2.5], rtol=ROUNDING
    )


def test_differences_of_quadratics_have_their_size_and_sum_to_zero():
    same, near, far = (
        make_federated_quadratic(heterogeneity=h, random_state=0)
        for h in (0.0, 0.1, 0.4)
    )
    for name in "ABbc":
        assert (same[name] == same[name][0]).all()
        difference = far[name] - same[name]
        assert abs(difference.sum(axis=0)).max() < ROUNDING
        np.testing.assert_allclose(difference, 4 * (near[name] - same[name]))
        if name in "AB":
            largest = np.linalg.norm(difference, 2, axis=(1, 2)).max()
            assert largest == pytest.approx(0.4)
    # 100 draws less 10 means of them: a standard error of 7 %
    difference = np.concatenate([far.b - same.b, far.c - same.c])
    assert difference.std() == pytest.approx(0.4, rel=0.2)


def test_very_different_clients_lack_inner_minima_which_their_mean_has():
    data = make_federated_quadratic(heterogeneity=2.0, random_state=0)
    assert np.linalg.eigvalsh(data.A).min() < 0
    assert np.linalg.eigvalsh(data.A.mean(axis=0)).min() == pytest.approx(1)


def test_neither_clients_nor_their_differences_change_the_quadratic_solution():
    few = make_federated_quadratic(1, heterogeneity=0.0, random_state=0)
    many = make_federated_quadratic(7, heterogeneity=0.9, random_state=0)
    for name in "xwv":
        np.testing.assert_array_equal(few[name], many[name])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_clients": 0}, "n_clients must be an integer of 1 or more; got 0"),
        ({"n_outer": 1.5}, "n_outer must be an integer of 1 or more; got 1.5"),
        ({"n_inner": -1}, "n_inner must be an integer of 1 or more; got -1"),
        ({"heterogeneity": -0.1}, "heterogeneity must be finite, 0 or more; got -0.1"),
        ({"heterogeneity": np.nan}, "heterogeneity must be finite"),
        ({"smallest": 0.0}, "smallest must be positive and finite; got 0.0"),
        ({"largest": 0.5}, "largest must be finite, and smallest=1.0 or more; got 0.5"),
        ({"largest": np.inf}, "largest must be finite"),
        ({"outer_l2": 0}, "outer_l2 must be positive and finite; got 0"),
    ],
)
def test_quadratics_that_cannot_be_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make_federated_quadratic(**options)


@cache
def drawings():
    """Return how often each bundled image occurs, and its label, by its bytes.

    A few drawings occur twice.
    """
    count, label = {}, {}
    for image, digit in zip(*load_digits(return_X_y=True)):
        count[image.tobytes()] = count.get(image.tobytes(), 0) + 1
        label[image.tobytes()] = digit
    return count, label


def as_drawings(X):
    return [image.tobytes() for image in 16 * X]


@pytest.mark.parametrize("make", DIGIT_GENERATORS)
def test_all_images_belong_to_one_client_of_one_subset(make):
    everything = {"imbalance": 1.0} if make is make_longtail_clients else {}
    found = {}
    for subset, seed in (("train", 0), ("test", 1)):  # the split is not by the seed
        X, _, clients, *_ = make(
            7, subset=subset, test_size=0.3, random_state=seed, **everything
        )
        assert (X.min(), X.max()) == (0, 1)
        assert np.ptp(np.bincount(clients, minlength=7)) <= 1
        assert (np.diff(clients) >= 0).all()
        for image in as_drawings(X):
            found[image] = found.get(image, 0) + 1
    assert found == drawings()[0]
    assert len(X) == np.ceil(0.3 * 1797)


@pytest.mark.parametrize("make", DIGIT_GENERATORS)
def test_images_for_testing_are_balanced_and_labelled_right(make):
    X, y, clients, *_ = make(subset="test", random_state=0)
    assert X.shape == (719, 64)
    assert np.ptp(np.bincount(y)) <= 3  # as in the bundled set, 174 to 183 of a digit
    assert set(clients) == set(range(10))
    label = drawings()[1]
    assert [label[image] for image in as_drawings(X)] == y.tolist()


@pytest.mark.parametrize("make", DIGIT_GENERATORS)
def test_images_of_a_client_are_in_no_order_of_their_digits(make):
    _, y, clients, *_ = make(subset="test", random_state=0)
    # a tenth of steps would stay with a digit by chance, 72 +- 8 of 719; of sorted
    # digits all but 99 would. The dominant half adds up to a quarter.
    stays = (np.diff(y) == 0) & (np.diff(clients) == 0)
    assert stays.mean() < 0.4


@pytest.mark.parametrize("imbalance", [0.05, 0.3, 1.0])
def test_digits_of_a_long_tail_keep_their_geometric_share_and_their_labels(imbalance):
    X, y, _ = make_longtail_clients(imbalance=imbalance, random_state=0)
    _, everything, _ = make_longtail_clients(imbalance=1, random_state=1)
    kept = np.bincount(y) / np.bincount(everything)
    share = imbalance ** (np.arange(10) / 9)
    # up to one image of 104 or more
    assert ((kept >= share - ROUNDING) & (kept < share + 1 / 104)).all()
    label = drawings()[1]
    assert [label[image] for image in as_drawings(X)] == y.tolist()


@pytest.mark.parametrize("n_clients", [4, 10, 23])
@pytest.mark.parametrize("q", [0.0, 0.5, 1.0])
def test_a_client_has_its_share_of_the_dominant_digit_as_far_as_there_are(n_clients, q):
    _, y, clients = make_longtail_clients(n_clients, heterogeneity=q, random_state=0)
    available = np.bincount(y)
    sizes = np.bincount(clients)
    assert np.ptp(sizes) <= 1
    for digit in range(min(n_clients, 10)):
        takers = range(digit, n_clients, 10)
        held = np.array([(y[clients == m] == digit).sum() for m in takers])
        wanted = np.rint(q * sizes[takers]).astype(int)
        if wanted.sum() <= available[digit]:
            assert (held >= wanted).all()  # the random rest may add some
        else:
            assert held.sum() == available[digit]
            assert np.ptp(held) <= 1


def test_without_heterogeneity_images_are_dealt_at_random():
    _, y, clients = make_longtail_clients(
        imbalance=1, heterogeneity=0.0, random_state=0
    )
    held = np.zeros((10, 10))
    np.add.at(held, (clients, y), 1)
    expected = held.sum(axis=1, keepdims=True) * held.sum(axis=0) / held.sum()
    chi2 = ((held - expected) ** 2 / expected).sum()
    assert 81 - 4 * np.sqrt(162) < chi2 < 81 + 4 * np.sqrt(162)  # (10 - 1)^2 degrees


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_clients": 0}, "n_clients must be an integer of 1 or more; got 0"),
        ({"n_clients": 373}, "n_clients=373 are more than the 372 images of the train"),
        ({"imbalance": 0.0}, "imbalance must be above 0, and 1 at most; got 0.0"),
        ({"imbalance": 1.5}, "imbalance must be above 0, and 1 at most; got 1.5"),
        ({"heterogeneity": 1.1}, "heterogeneity must be between 0 and 1; got 1.1"),
        ({"heterogeneity": np.nan}, "heterogeneity must be between 0 and 1; got nan"),
        ({"subset": "all"}, "subset must be 'train' or 'test'; got 'all'"),
        ({"test_size": 1.0}, "test_size must be a share between 0 and 1; got 1.0"),
    ],
)
def test_long_tails_that_cannot_be_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make_longtail_clients(**options)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, [0.1, 0.2, 0.6]])
def test_clients_have_their_share_of_wrong_labels_where_the_mask_says(noise):
    X, y, clients, wrong = make_noisy_clients(5, n_clean=2, noise=noise, random_state=0)
    assert wrong.dtype == bool
    label = drawings()[1]
    truth = np.array([label[image] for image in as_drawings(X)])
    np.testing.assert_array_equal(wrong, y != truth)
    assert set(y) == set(range(10))
    sizes = np.bincount(clients)
    shares = np.concatenate([[0, 0], np.broadcast_to(noise, 3)])
    n_wrong = np.bincount(clients[wrong], minlength=5)
    assert (abs(n_wrong - shares * sizes) <= 0.5).all()


def test_noisy_clients_differ_by_their_labels_only():
    X, _, clients, _ = make_noisy_clients(6, random_state=0)
    label = drawings()[1]
    held = np.zeros((6, 10), dtype=int)
    np.add.at(held, (clients, [label[image] for image in as_drawings(X)]), 1)
    assert np.ptp(held, axis=0).max() <= 1


def test_a_wrong_label_is_any_of_the_nine_others():
    X, y, *_ = make_noisy_clients(n_clean=0, noise=1.0, random_state=0)
    label = drawings()[1]
    truth = np.array([label[image] for image in as_drawings(X)])
    shifts = np.bincount((y - truth) % 10, minlength=10)
    assert shifts[0] == 0
    # 1078 draws of nine: 120 +- 10
    assert (abs(shifts[1:] - len(y) / 9) < 40).all()


@pytest.mark.parametrize(
    "options", [{"subset": "test", "noise": 1.0}, {"n_clean": 10}, {"noise": 0.0}]
)
def test_there_are_no_wrong_labels_for_testing_and_in_clean_clients(options):
    *_, wrong = make_noisy_clients(**options, random_state=0)
    assert not wrong.any()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_clients": 2.0}, "n_clients must be an integer of 1 or more; got 2.0"),
        ({"n_clients": 1079}, "n_clients=1079 are more than the 1078 images"),
        ({"n_clean": 11}, "n_clean must be an integer between 0 and n_clients=10; got"),
        ({"n_clean": -1}, "n_clean must be .* got -1"),
        ({"n_clean": 1.0}, "n_clean must be an integer .* got 1.0"),
        ({"noise": 1.2}, "noise must be shares between 0 and 1; got 1.2"),
        ({"noise": [0.1, 0.2]}, r"= 8 clients with wrong labels; got shape \(2,\)"),
        ({"n_clean": 8, "noise": [0.1, np.nan]}, r"shares between 0 and 1; got \[0.1"),
        ({"subset": "valid"}, "subset must be 'train' or 'test'; got 'valid'"),
        ({"test_size": 0}, "test_size must be a share between 0 and 1; got 0"),
    ],
)
def test_noisy_clients_that_cannot_be_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make_noisy_clients(**options)


@pytest.mark.parametrize("sizes", [(4, 5, 3), (2, 30, 4), (3, 4, 1), (1, 1, 2)])
def test_transitions_are_probabilities_and_lead_everywhere(sizes):
    n_clients, n_states, n_actions = sizes
    data = make_federated_mdp(
        n_clients, n_states=n_states, n_actions=n_actions, random_state=0
    )
    assert data.transitions.shape == (n_states, n_actions, n_states)
    assert data.rewards.shape == (n_clients, n_states, n_actions)
    np.testing.assert_allclose(data.transitions.sum(axis=2), 1)
    assert data.transitions.min() >= 0.05 / n_states
    np.testing.assert_allclose(data.initial, np.full(n_states, 1 / n_states))
    assert data.policy.shape == data.value.shape == (n_states,)


@pytest.mark.parametrize("heterogeneity", [0.0, 0.1, 1 / 3])
def test_differences_of_rewards_have_their_size_and_sum_to_zero(heterogeneity):
    same, data = (
        make_federated_mdp(heterogeneity=h, random_state=0)
        for h in (0.0, heterogeneity)
    )
    difference = data.rewards - same.rewards
    assert abs(difference).max() == pytest.approx(heterogeneity)
    assert abs(difference.sum(axis=0)).max() < ROUNDING
    assert data.rewards.min() >= 0
    assert data.rewards.max() <= 1


@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.999])
def test_the_optimal_value_satisfies_the_equation_of_bellman(gamma):
    data = make_federated_mdp(n_states=12, gamma=gamma, random_state=0)
    Q = data.rewards.mean(axis=0) + gamma * data.transitions @ data.value
    # relative to values, which are up to 1 / (1 - gamma)
    np.testing.assert_allclose(Q.max(axis=1), data.value, rtol=ROUNDING)
    np.testing.assert_array_equal(Q.argmax(axis=1), data.policy)
    assert data.optimum == pytest.approx((1 - gamma) * data.initial @ data.value)
    assert data.gamma == gamma


def test_no_policy_does_better_than_the_optimum():
    data = make_federated_mdp(random_state=0)
    P, reward, s = data.transitions, data.rewards.mean(axis=0), np.arange(5)

    def value(policy):
        step = np.eye(5) - data.gamma * P[s, policy]
        V = np.linalg.solve(step, reward[s, policy])
        return (1 - data.gamma) * data.initial @ V

    best = max(product(range(3), repeat=5), key=lambda policy: value(list(policy)))
    assert list(best) == data.policy.tolist()
    assert value(data.policy) == pytest.approx(data.optimum, rel=ROUNDING)


def test_the_optimum_has_the_units_of_the_actor_critic_problem():
    data = make_federated_mdp(gamma=0.8, random_state=1)
    problem = ActorCriticProblem(torch.from_numpy(data.transitions), gamma=data.gamma)
    # logits that leave e^-60 to the other actions
    theta = 60 * torch.eye(3, dtype=torch.float64)[torch.from_numpy(data.policy)]
    value = problem.value(torch.from_numpy(data.rewards.mean(axis=0)), theta)
    assert value.item() == pytest.approx(data.optimum, rel=ROUNDING)


def test_neither_clients_nor_their_differences_change_the_best_policy():
    few = make_federated_mdp(1, heterogeneity=0.0, random_state=0)
    many = make_federated_mdp(9, heterogeneity=0.3, random_state=0)
    for name in ("transitions", "policy", "value", "optimum"):
        np.testing.assert_array_equal(few[name], many[name])


def test_the_best_policy_of_a_client_is_seldom_that_of_the_mean():
    own, n = 0, 20
    for seed in range(n):
        data = make_federated_mdp(random_state=seed)
        later = data.gamma * data.transitions
        V = np.zeros((4, 5))
        for _ in range(200):  # .9^200 = 7e-10
            Q = data.rewards + np.einsum("sat,mt->msa", later, V)
            V = Q.max(axis=2)
        own += (Q.argmax(axis=2) == data.policy).all(axis=1).mean()
    assert own / n < 0.25


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_clients": 0}, "n_clients must be an integer of 1 or more; got 0"),
        ({"n_states": 0}, "n_states must be an integer of 1 or more; got 0"),
        ({"n_actions": 2.5}, "n_actions must be an integer of 1 or more; got 2.5"),
        ({"heterogeneity": 0.5}, "heterogeneity must be between 0 and 1/3; got 0.5"),
        ({"heterogeneity": -0.1}, "heterogeneity must be between 0 and 1/3; got -0.1"),
        ({"gamma": 1.0}, "gamma must be 0 or more, and below 1; got 1.0"),
        ({"gamma": np.nan}, "gamma must be 0 or more, and below 1; got nan"),
    ],
)
def test_decision_processes_that_cannot_be_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make_federated_mdp(**options)
