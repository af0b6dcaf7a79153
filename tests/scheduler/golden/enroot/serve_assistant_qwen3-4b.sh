#!/bin/bash
# Started by the supervisor, which sets EMOBENCH_HOST, EMOBENCH_PORT and VLLM_API_KEY.
module load cuda/12.8
source /opt/vllm/bin/activate
set -u
export HF_HOME='/scratch/hf cache'
export VLLM_LOGGING_LEVEL=INFO
: "${VLLM_API_KEY:?without a key this server would answer everybody}"
container=(
  # The image's own entry point would take our command for its arguments.
  enroot start --rc /scratch/me/runs/study/scripts/container_rc.sh
  --mount /models:/models
  --mount /scratch/me/runs/study/scripts:/scratch/me/runs/study/scripts
  --env
  HF_TOKEN
)
# Enroot hands on what is named; a name without its value keeps the key out of the arguments.
for name in VLLM_API_KEY EMOBENCH_INCARNATION EMOBENCH_SERVER HF_TOKEN CUDA_VISIBLE_DEVICES HABANA_VISIBLE_DEVICES HABANA_VISIBLE_MODULES HF_HOME VLLM_LOGGING_LEVEL; do
  if [ -n "${!name+set}" ]; then
    container+=(--env "$name")
  fi
done
container+=('/images/vllm 0.33.sqsh')
exec "${container[@]}" vllm serve Qwen/Qwen3-4B-Instruct-2507 \
  --host "$EMOBENCH_HOST" --port "$EMOBENCH_PORT" --middleware emobench_guard.Guard \
  --served-model-name Qwen/Qwen3-4B-Instruct-2507 \
  --revision main \
  --dtype bfloat16 \
  --gpu-memory-utilization 0.9 \
  --enable-auto-tool-choice \
  --tool-call-parser hermes \
  --max-model-len 32768 \
  --tensor-parallel-size 1 \
  --enable-prompt-tokens-details \
  --enable-prefix-caching
