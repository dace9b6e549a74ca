"""Federated tuning: clients learn on rows of their own, and a server makes one adapter of it.

The order of a run, by files and folders:

    settings      what defines a run: settings of a run of one machine, and of rounds
    split, rows   who has which rows: evenly, by a Dirichlet draw of their classes, by a column
    schedule      stages, learning rates, what learns in each round, and who takes part
    client        one client's part of a round, on a model that is in memory
    additions     what rounds add to the base, kept beside it where it has too few digits
    aggregation   one adapter of many, in seven ways
    gaussian      what the noise of local privacy is worth
    replies       what is not made an adapter of, and why
    server        what is sent, what is made of the replies, what must be remembered
    coordinator   the server's side of a run: stages, figures, checkpoints, the result
    run           all of it in one process, without a network; resumable after every round
    outputs       checkpoints, figures, the adapter, and how the loss fell
    flower        the same over Flower's messages and processes
    traffic       bytes
"""
