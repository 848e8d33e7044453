#!/bin/sh
# Makes .venv with Fairlead and what its tests need; does nothing when that is done already.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/.made-for
want=$(cksum pyproject.toml src/fairlead/__init__.py | cksum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

python=
for candidate in python3.13 python3.12 python3.11 python3; do
  if command -v "$candidate" >/dev/null 2>&1 &&
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv" >&2
  exit 1
fi
if [ ! -x .venv/bin/python ]; then
  echo "making .venv with $($python --version)"
  if ! $python -m venv .venv 2>/dev/null; then
    rm -rf .venv
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      echo "installing python3-venv"
      apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
      $python -m venv .venv
    else
      echo "cannot make a virtual environment: apt-get install python3-venv" >&2
      exit 1
    fi
  fi
fi
echo "installing Fairlead and its test tools into .venv (about a minute)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
echo "$want" >"$stamp"
