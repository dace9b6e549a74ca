#!/bin/bash
# run.sh PYTHON: tests that need Flower, which pins other versions of packages that we use.
#
# They lie in build/federated, as constraints-federated.txt says.
set -euo pipefail
here=build/federated
tests/beside.sh "$1" $here "$(cksum <constraints-federated.txt)" constraints-federated.txt \
    'flwr[simulation]'
PYTHONPATH=src FLWR_TELEMETRY_ENABLED=0 exec "$here/bin/python" -m pytest -n0 -p no:cacheprovider \
    -o filterwarnings=default -m "slow or not slow" tests/federated/flower
