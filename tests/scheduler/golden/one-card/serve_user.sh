#!/bin/bash
# Started by the supervisor, which sets EMOBENCH_HOST, EMOBENCH_PORT and VLLM_API_KEY.
module load cuda/12.8
source /opt/vllm/bin/activate
set -u
export HF_HOME='/scratch/hf cache'
export VLLM_LOGGING_LEVEL=INFO
: "${VLLM_API_KEY:?without a key this server would answer everybody}"
# Here is the guard: it asks for the key on the routes that vLLM leaves open as well.
export PYTHONPATH=/scratch/me/runs/study/scripts"${PYTHONPATH:+:$PYTHONPATH}"
# The Rust front end loads no guard.
export VLLM_USE_RUST_FRONTEND=0
exec vllm serve Qwen/Qwen3-4B-Instruct-2507 \
  --host "$EMOBENCH_HOST" --port "$EMOBENCH_PORT" --middleware emobench_guard.Guard \
  --served-model-name Qwen/Qwen3-4B-Instruct-2507 \
  --revision main \
  --dtype bfloat16 \
  --gpu-memory-utilization 0.45 \
  --default-chat-template-kwargs '{"enable_thinking": false}' \
  --max-model-len 32768 \
  --tensor-parallel-size 1 \
  --enable-prompt-tokens-details \
  --enable-prefix-caching
