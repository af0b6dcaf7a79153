export PYTHONPATH=/scratch/me/runs/study/scripts"${PYTHONPATH:+:$PYTHONPATH}"
exec "$@"
