#!/bin/bash
# run.sh PYTHON: tests that need lm-evaluation-harness, whose forty packages nothing else here uses.
#
# They lie in build/eval, in the versions that PYTHON's environment has of those that both have.
set -euo pipefail
here=build/eval
tests/beside.sh "$1" $here "$(grep '^lm-eval==' constraints.txt)" constraints.txt "lm-eval[api]"
PYTHONPATH=src exec "$here/bin/python" -m pytest -n0 -p no:cacheprovider \
    -o filterwarnings=default tests/evaluation
