#!/bin/bash
# Started by the supervisor, which sets EMOBENCH_HOST, EMOBENCH_PORT and VLLM_API_KEY.
module load mamba/latest
source activate gaudi-pytorch-vllm
set -u
export PT_HPU_LAZY_MODE=0
: "${VLLM_API_KEY:?without a key this server would answer everybody}"
# Here is the guard: it asks for the key on the routes that vLLM leaves open as well.
export PYTHONPATH=/scratch/me/runs/study/scripts"${PYTHONPATH:+:$PYTHONPATH}"
# The Rust front end loads no guard.
export VLLM_USE_RUST_FRONTEND=0
# Slurm hides no Gaudi card from a process, and hl-smi's index is not the module id that the
# runtime wants; the map differs by node. Without it this job could take a neighbour's cards.
if [ -z "${HABANA_VISIBLE_MODULES:-}" ]; then
  cards="${SLURM_STEP_GPUS:-${SLURM_JOB_GPUS:-}}"
  if [ -z "$cards" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    # A GRES that is not called gpu sets no variable.
    job="${EMOBENCH_JOB_ID:-$SLURM_JOB_ID}"
    job="${job%.*}"
    cards="$(scontrol show job -d "$job" |
      sed -n 's/.*Nodes=\([^ ]*\) .*(IDX:\([0-9,-]*\)).*/\1 \2/p' |
      while read -r nodes indices; do
        if scontrol show hostnames "$nodes" | grep -qxF "${SLURMD_NODENAME:-$(hostname -s)}"; then
          echo "$indices"
        fi
      done | head -n 1)"
  fi
  mapped="$(hl-smi -Q index,module_id -f csv | awk -F', *' -v cards="$cards" -v first="${EMOBENCH_FIRST_CARD:--1}" '
    $1 ~ /^[0-9]+$/ && $2 ~ /^[0-9]+[ \r]*$/ { module[$1] = $2 + 0 }
    END {
      parts = split(cards, part, ",")
      for (p = 1; p <= parts; p++) {
        ends = split(part[p], range, "-")
        for (card = range[1] + 0; card <= range[ends] + 0; card++) {
          # Of a job that is two servers each has a part.
          if (first >= 0 && (seen++ < first || found == 2)) continue
          if (!(card in module)) exit 1
          comma = found++ ? "," : ""
          modules = modules comma module[card]
          indices = indices comma card
        }
      }
      print modules, indices
      exit (found == 2 ? 0 : 1)
    }')" || {
    echo "emobench: no module ids for the cards '$cards' of this job: not started" >&2
    echo "  try: hl-smi -Q index,module_id -f csv" >&2
    exit 1
  }
  export HABANA_VISIBLE_MODULES="${mapped% *}"
fi
exec vllm serve Qwen/Qwen3-32B \
  --host "$EMOBENCH_HOST" --port "$EMOBENCH_PORT" --middleware emobench_guard.Guard \
  --served-model-name Qwen/Qwen3-32B \
  --reasoning-parser qwen3 \
  --default-chat-template-kwargs '{"enable_thinking": false}' \
  --max-model-len 32768 \
  --tensor-parallel-size 2 \
  --enable-prompt-tokens-details
