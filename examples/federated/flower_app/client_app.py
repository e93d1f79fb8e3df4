"""A node: it holds some clients, and answers with sums over them."""

from sklearn_attn.datasets import make_federated_quadratic
from sklearn_attn.federated import ClientBlock, flower_client_app, quadratic_problem

# The maps are known to all. A real node reads its own clients from its own disk; here
# each takes its part of one made data set.
problem, everyone = quadratic_problem(
    make_federated_quadratic(outer_l2=1.0, random_state=0)
)


def make_block(context):
    """Load the clients of this node."""
    node = int(context.node_config["partition-id"])
    numbers = list(range(len(everyone)))[node :: context.node_config["num-partitions"]]
    return ClientBlock(problem, [everyone[m] for m in numbers], numbers=numbers)


app = flower_client_app(make_block)
