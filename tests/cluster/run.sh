#!/bin/bash
# run.sh PYTHON: tests of replicas on Ray Serve, whose packages nothing else here uses.
#
# They lie in build/cluster, beside those of PYTHON's environment, in the versions that this one has.
# Where the system allows it, the tests have a network of their own: only the loopback.
set -euo pipefail
version=$(grep '^ray==' constraints.txt)
python=$1 here=build/cluster
if [ "$version" != "$(cat $here/version 2>/dev/null)" ]; then
    "$python" -m venv --clear $here
    own=$("$here/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$own/beside.pth"
    "$here/bin/python" -m pip install --quiet -c constraints.txt "ray[serve]"
    echo $version >$here/version
fi
alone=()
if unshare -rn ip link set lo up 2>/dev/null; then
    alone=(unshare -rn sh -c 'ip link set lo up; exec "$@"' sh)
fi
PYTHONPATH=$PWD/src RAY_USAGE_STATS_ENABLED=0 exec "${alone[@]}" "$here/bin/python" -m pytest -s \
    -n0 -m "slow or not slow" -p no:cacheprovider -o filterwarnings=default \
    tests/cluster/ray_cluster
