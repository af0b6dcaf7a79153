#!/bin/bash
# Started by the supervisor, which sets EMOBENCH_HOST, EMOBENCH_PORT and EMOBENCH_API_KEY.
module load python/3.11
set -u
exec /opt/emobench/bin/python -P -m emobench.scripted \
  --host "$EMOBENCH_HOST" --port "$EMOBENCH_PORT" \
  --role assistant --model scripted \
  --settings /scratch/me/runs/study/scripts/settings_assistant_a.json --seed 10
