#!/bin/bash
# run.sh PYTHON: tests that need Flower, which pins other versions of packages that we use.
#
# They lie in build/federated, before those of PYTHON's environment, as constraints-federated.txt
# says; so nothing else sees them.
set -euo pipefail
wanted=$(cksum <constraints-federated.txt)
python=$1 here=build/federated
if [ "$wanted" != "$(cat $here/version 2>/dev/null)" ]; then
    "$python" -m venv --clear $here
    own=$("$here/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$own/beside.pth"
    "$here/bin/python" -m pip install --quiet -c constraints-federated.txt flwr
    echo "$wanted" >$here/version
fi
PYTHONPATH=src FLWR_TELEMETRY_ENABLED=0 exec "$here/bin/python" -m pytest -n0 -p no:cacheprovider \
    -o filterwarnings=default -m "slow or not slow" tests/federated/flower
