"""Federated learning: many clients, one solution, data that stay where they are."""

from ._clients import ClientBlock
from ._communication_display import CommunicationDisplay
from ._fedmsa import ClientLostError, DivergenceError, fedmsa
from ._fedmsa_classifier import FedMSAClassifier
from ._fedmsa_regressor import FedMSARegressor
from ._fednest import fednest
from ._flower_engine import FlowerEngine, flower_client_app, flower_server_app
from ._gloo_engine import GlooEngine, local_gloo_engine, serve_clients
from ._hypergradient import (
    client_heterogeneity,
    exact_hypergradient,
    local_hypergradient,
    neumann_hypergradient,
)
from ._problems import (
    ActorCriticProblem,
    BilevelProblem,
    CompositionalProblem,
    FederatedProblem,
    MinimaxProblem,
    MinimizationProblem,
)
from ._quadratic import quadratic_problem

__all__ = [
    "ActorCriticProblem",
    "BilevelProblem",
    "ClientBlock",
    "ClientLostError",
    "CommunicationDisplay",
    "CompositionalProblem",
    "DivergenceError",
    "FedMSAClassifier",
    "FedMSARegressor",
    "FederatedProblem",
    "FlowerEngine",
    "GlooEngine",
    "MinimaxProblem",
    "MinimizationProblem",
    "client_heterogeneity",
    "exact_hypergradient",
    "fedmsa",
    "fednest",
    "flower_client_app",
    "flower_server_app",
    "local_gloo_engine",
    "local_hypergradient",
    "neumann_hypergradient",
    "quadratic_problem",
    "serve_clients",
]
