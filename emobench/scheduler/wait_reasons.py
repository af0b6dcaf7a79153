"""What Slurm's reasons mean for which a job waits, where they are none of a busy cluster's.

The words are those of squeue(1), JOB REASON CODES.
"""

from __future__ import annotations

import re

_MEANINGS = (
    # The first that matches is shown.
    (
        r"^(QOS|Assoc)Grp\w*(Minutes|RunMin)|^(QOS|Assoc)Max\w*Minutes|^QOSUsageThreshold",
        "the time that your account or QOS may use is used up",
        "it starts when the site gives more, or when its period ends",
    ),
    (
        r"^(QOS|Assoc)Max\w*(PerJob|PerNode)|^QOSMin|^MaxMemPerLimit|^(QOS|Association)TimeLimit",
        "this job alone is beyond a limit of your QOS or account",
        "it never starts: change the profile, cancel and submit again",
    ),
    (
        r"^(QOS|Assoc)Max|^Max\w+PerAccount",
        "your jobs have all that your QOS or account allows",
        "it starts when another job of yours ends",
    ),
    (
        r"^(QOS|Assoc)Grp|^(QOS|Association)(Job|Resource)Limit",
        "all jobs of your QOS or account have as much as it allows",
        "it starts when another job ends",
    ),
    (
        r"^PartitionTimeLimit",
        "its time is longer than the partition's limit",
        "it never starts: lower time in the profile, cancel and submit again",
    ),
    (
        r"^PartitionNodeLimit",
        "it asks for more nodes than the partition gives one job, or has",
        "it starts when enough nodes are up, or never: `scontrol show partition` says the limit",
    ),
    (r"^Partition(Down|Inactive)", "the partition takes no jobs now", "`sinfo -s` shows its state"),
    (
        r"Reserved for maintenance|^Reservation\b",
        "a reservation has the nodes, or has them before this job would end",
        "`scontrol show reservation` says how long; a shorter time may start before it",
    ),
    (
        r"^(ReqNodeNotAvail|NodeDown|NodesDown|Nodes_required_for_job_are_DOWN)",
        "nodes that it could run on are down, drained or reserved",
        "`sinfo -R` says why",
    ),
    (
        r"^DependencyNeverSatisfied",
        "a job that it waits for failed",
        "it never starts: cancel it, and run the same `emobench sweep` command again",
    ),
    (
        r"^(BadConstraints|Invalid(QOS|Account)|(QOS|Account)NotAllowed)",
        "its constraint, QOS or account is not there any more",
        "it never starts: correct the profile, cancel and submit again",
    ),
)


def explain_wait(reason: str) -> str:
    """Return what a reason means and what can be done; empty for one that passes by itself, as
    Priority and Resources do, and for one that is not known."""
    # squeue writes some with blanks, and with a list in brackets.
    text = reason.strip(" ()")
    for pattern, meaning, remedy in _MEANINGS:
        if re.search(pattern, text):
            return f"{meaning}; {remedy}"
    return ""
