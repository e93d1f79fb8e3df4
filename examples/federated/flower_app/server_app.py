"""The server: it holds no data, and asks the nodes two questions a round."""

from client_app import problem

from sklearn_attn.federated import fedmsa, flower_server_app


def run(engine, context):
    """Solve, and print each round."""

    def show(solution):
        history = solution.history
        print(
            f"message {history['communications'][-1]:3d}"
            f"  |gradient| {history['outer_norm'][-1]:.2e}"
            f"  {history['seconds'][-1]:6.1f} s"
            f"  lost {history['lost'][-1]}",
            flush=True,
        )

    solution = fedmsa(
        problem,
        engine=engine,
        n_rounds=context.run_config["n-rounds"],
        local_steps=context.run_config["local-steps"],
        alpha=0.02,
        beta=0.2,
        on_round=show,
    )
    print("x =", solution.value[0].numpy().round(4))


app = flower_server_app(run)
