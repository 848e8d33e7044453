#!/usr/bin/env bash
# Do real engines work behind fairlead? Runs from nothing: `make test-engines` on a machine with Python and an index for pip.
#
# Arguments go to pytest:   scripts/engines/test.sh -k outage -x
# Variables: those of setup.sh, and FAIRLEAD_LIVE_ENGINES / FAIRLEAD_LIVE_DIRECT of tests/live/conftest.py.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
begun=$SECONDS

say() { printf 'engines: %s\n' "$*"; }

"$root/scripts/venv.sh"
if [ $# = 0 ]; then
    MODELS=${MODELS:-16m 81m} "$here/setup.sh" # the round of policies at the end needs a prefill that takes time
else
    "$here/setup.sh"
fi

export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH} # this tree is what is tested, whatever else is installed
cd "$root"
code=0
FAIRLEAD_LIVE=1 .venv/bin/python -m pytest tests/live -m live "$@" || code=$?
if [ "$code" = 0 ] && [ $# = 0 ]; then
    say "policies on two real engines, a short round (for figures, on a quiet machine: python -m bench.engines)"
    .venv/bin/python -m bench.engines --rounds 1 --seconds 10 --quiet 99 --wait 1 || code=$?
fi
say "$((SECONDS - begun)) s in all; what the engines and fairlead wrote is in ${FAIRLEAD_ENGINES_HOME:-$root/.engines}/logs"
exit "$code"
