export PYTHONPATH=/scratch/me/runs/study/scripts"${PYTHONPATH:+:$PYTHONPATH}"
export VLLM_USE_RUST_FRONTEND=0
exec "$@"
