#!/bin/bash
# run.sh PYTHON: tests that need lm-evaluation-harness, whose forty packages nothing else here uses.
#
# They lie in build/eval, beside those of PYTHON's environment, in the versions that this one has.
set -euo pipefail
version=$(grep '^lm-eval==' constraints.txt)
python=$1 here=build/eval
if [ "$version" != "$(cat $here/version 2>/dev/null)" ]; then
    "$python" -m venv --clear $here
    own=$("$here/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$own/beside.pth"
    "$here/bin/python" -m pip install --quiet -c constraints.txt "lm-eval[api]"
    echo $version >$here/version
fi
PYTHONPATH=src exec "$here/bin/python" -m pytest -n0 -p no:cacheprovider \
    -o filterwarnings=default tests/evaluation
