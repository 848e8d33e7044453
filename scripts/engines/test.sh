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
"$here/setup.sh"

export PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH} # this tree is what is tested, whatever else is installed
cd "$root"
code=0
FAIRLEAD_LIVE=1 .venv/bin/python -m pytest tests/live -m live "$@" || code=$?
say "$((SECONDS - begun)) s in all; what the engines and fairlead wrote is in ${FAIRLEAD_ENGINES_HOME:-$root/.engines}/logs"
exit "$code"
