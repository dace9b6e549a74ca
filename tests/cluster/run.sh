#!/bin/bash
# run.sh PYTHON: tests of replicas on Ray Serve, whose packages nothing else here uses.
#
# They lie in build/cluster, in the versions that PYTHON's environment has of those that both have.
# Where the system allows it, the tests have a network of their own: only the loopback.
set -euo pipefail
here=build/cluster
tests/beside.sh "$1" $here "$(grep '^ray==' constraints.txt)" constraints.txt "ray[serve]"
alone=()
if unshare -rn ip link set lo up 2>/dev/null; then
    alone=(unshare -rn sh -c 'ip link set lo up; exec "$@"' sh)
fi
PYTHONPATH=$PWD/src RAY_USAGE_STATS_ENABLED=0 exec "${alone[@]}" "$here/bin/python" -m pytest -s \
    -n0 -m "slow or not slow" -p no:cacheprovider -o filterwarnings=default \
    tests/cluster/ray_cluster
