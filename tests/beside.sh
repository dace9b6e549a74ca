#!/bin/bash
# beside.sh PYTHON HERE WANTED CONSTRAINTS PACKAGE: an environment for packages few tests need.
#
# PACKAGE and what it brings lie in HERE, before those of PYTHON's environment, which are found
# behind them; so nothing else sees them. HERE is made again when WANTED, a text that says what
# should be in it, changes.
set -euo pipefail
python=$1 here=$2 wanted=$3 constraints=$4 package=$5
if [ "$wanted" != "$(cat "$here/version" 2>/dev/null)" ]; then
    "$python" -m venv --clear "$here"
    own=$("$here/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$own/beside.pth"
    "$here/bin/python" -m pip install --quiet -c "$constraints" "$package"
    echo "$wanted" >"$here/version"
fi
