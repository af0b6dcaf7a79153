"""Checks before a headline: is the emotion visible, and did the user stay with the task?

dialogue      a transcript as what the two sides said to each other, and the tools in between
values        ids, zips, dates, ... found in text, each in one spelling
facts         what a task's instruction tells the user
fidelity      conveyed, invented, contradicted, early stops, role flips   (no model needed)
markers       word lists and counts: reassurance seeking, demands, capitals, ...
judge         what the judge is asked, and how its answer is read
judging       the judge asked over HTTP, its answers kept in the run directory
manipulation  recognition, confusion matrix, decay over turns, agreement
paired        shares and differences from control, paired by task
assess        all of it for a run directory; checks.json
command       `emobench judge` and `emobench check`

What the figures mean and where they end is in docs/gates.md; verdicts are analysis.gates'.
"""
