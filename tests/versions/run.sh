#!/bin/bash
# run.sh oldest|newest PYTHON [TESTS...]: tests with the libraries of one end of the ranges.
#
# The environment lies in build/versions, apart from .venv, and is made again when its requirements
# change. Old and new libraries warn of different things, so warnings are no errors here.
set -euo pipefail
end=$1 python=$2
shift 2
[ $# -gt 0 ] || set -- tests/methods tests/training tests/serving/test_own_tuners.py \
    tests/serving/test_llm.py
here=build/versions/$end-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
wanted=$("$python" tests/versions/requirements.py "$end")
if [ "$wanted" != "$(cat "$here/requirements.txt" 2>/dev/null)" ]; then
    "$python" -m venv --clear "$here"
    pip=("$here/bin/python" -m pip install --quiet)
    if [ -n "${TORCH_INDEX:-}" ]; then
        PIP_INDEX_URL=$TORCH_INDEX "${pip[@]}" --no-deps "$(grep '^torch[=>]' <<<"$wanted")"
    fi
    "${pip[@]}" -r <(printf '%s\n' "$wanted")
    "${pip[@]}" --no-deps -e .
    printf '%s' "$wanted" >"$here/requirements.txt"
fi
"$here/bin/python" -m pip list 2>/dev/null |
    grep -E '^(accelerate|datasets|huggingface_hub|peft|torch|transformers|trl) '
exec "$here/bin/python" -m pytest -n logical --maxprocesses 8 --dist loadfile \
    -p no:cacheprovider -o filterwarnings=default "$@"
