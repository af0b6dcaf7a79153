#!/bin/bash
# Started by the supervisor, which sets EMOBENCH_HOST, EMOBENCH_PORT and VLLM_API_KEY.
module load cuda
source "$HOME/vllm/bin/activate"
set -u
export HF_HUB_OFFLINE=0
export PYTHONNOUSERSITE=1
exec vllm serve Qwen/Qwen3-32B \
  --host "$EMOBENCH_HOST" --port "$EMOBENCH_PORT" \
  --served-model-name Qwen/Qwen3-32B \
  --reasoning-parser qwen3 \
  --default-chat-template-kwargs '{"enable_thinking": false}' \
  --max-model-len 32768 \
  --tensor-parallel-size 2 \
  --enable-prompt-tokens-details
