"""Rounds over Flower: its messages, its strategies and mods for privacy, its processes.

    messages      what clients and server say, as Flower's records
    nodes         which node is which client, also after one was restarted
    client_app    one client, wherever its rows are
    strategy      the rounds of a run as one of Flower's strategies
    server_app    the server, wherever clients are
    privacy       Flower's strategies and mods around ours
    local_grid    clients in this process, without a network
    engine        clients in processes of Ray, by Flower's simulation engine
    simulate      a run on one of both
    write_app     the folder of an app for superlink and supernodes

Importing this package makes Flower report nothing to its makers.
"""

import os
import sys

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
if "flwr.supercore.telemetry" in sys.modules:
    # It was imported before, and has read the variable.
    vars(sys.modules["flwr.supercore.telemetry"])["FLWR_TELEMETRY_ENABLED"] = "0"
