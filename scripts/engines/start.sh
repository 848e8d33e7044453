#!/usr/bin/env bash
# How is one vLLM started on this machine's CPU, so that a balancer in front of it has something to do?
#
# In the foreground: the process that was started is the server, ctrl-c or SIGTERM ends it. For the tests each engine is
# the leader of its own process group, because its core runs in a process of its own.
#
#   scripts/engines/start.sh --port 8201 --core 0
#   scripts/engines/start.sh --port 8202 --core 1 --model 81m
#   scripts/engines/start.sh --port 8203 --embed                what follows -- goes to `vllm serve`:
#   scripts/engines/start.sh --port 8204 -- --max-num-queued-reqs 3
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${FAIRLEAD_ENGINES_HOME:-$(cd "$here/../.." && pwd)/.engines}

usage() {
  echo "usage: $0 --port PORT [--core N] [--model SIZE] [--served-as NAME] [--embed] [-- VLLM OPTIONS]" >&2
  exit 2
}

port='' core='' size=16m served_as=tiny embed=''
while (($#)); do
  case $1 in
    --port) port=${2:?} && shift 2 ;;
    --core) core=${2:?} && shift 2 ;;
    --model) size=${2:?} && shift 2 ;;
    --served-as) served_as=${2:?} && shift 2 ;;
    --embed) embed=yes && shift ;;
    --) shift && break ;;
    *) usage ;;
  esac
done
[[ -n $port ]] || usage

model=$home/models/$size
[[ -x $home/venv/bin/vllm && -f $model/config.json ]] || {
  echo "engines: vLLM or the model $size is missing under $home; run MODELS=$size scripts/engines/setup.sh first" >&2
  exit 1
}

export VLLM_TARGET_DEVICE=cpu
export VLLM_CPU_KVCACHE_SPACE=1 # GiB, whole ones only; the blocks below use a small part
export VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1
export VLLM_SERVER_DEV_MODE=1 # for POST /reset_prefix_cache; never on a server that others can reach
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1
export PYTHONHASHSEED=0 # block hashes of two engines are the same

pin=()
if [[ -n $core ]] && command -v taskset >/dev/null; then
  pin=(taskset -c "$core") # an engine spins on its core; two on one core double each other's latencies
fi

# 96 blocks of 128 tokens: small enough to see the cache evict.
options=(--served-model-name "$served_as" --host 127.0.0.1 --port "$port" --enforce-eager --max-model-len 4096
  --max-num-seqs 16 --max-num-batched-tokens 512 --num-gpu-blocks-override 96)
if [[ -n $embed ]]; then
  options+=(--runner pooling --convert embed)
else
  options+=(--enable-prefix-caching --enable-prompt-tokens-details)
fi
exec "${pin[@]}" "$home/venv/bin/vllm" serve "$model" "${options[@]}" "$@"
