"""The configuration files of the test cluster, as text."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

NODES = ("cuda1", "cuda2", "gaudi1", "gaudi2")
GRES = {"cuda": "gpu:h100:2", "gaudi": "hpu:gaudi2:2"}


@dataclass(frozen=True)
class Ports:
    controller: int
    accounting: int
    nodes: tuple[int, ...]


def slurm_conf(folder: Path, user: str, ports: Ports) -> str:
    host = socket.gethostname().partition(".")[0]
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 "
        f"RealMemory=64000 Gres={GRES[name.rstrip('12')]} State=UNKNOWN"
        for name, port in zip(NODES, ports.nodes, strict=True)
    )
    return f"""\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports.controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# The short expiry also lets a requeued job start after 6 s instead of 121 s.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Without it a job takes a node's whole memory.
DefMemPerCPU=100
# Lets a node claim more CPUs than the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MaxArraySize=1001
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,bf_min_age_reserve=0
JobRequeue=1
GresTypes=gpu,hpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports.accounting}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu,gres/hpu
# Limits set with sacctmgr (MaxSubmitJobs and the like) are enforced.
AccountingStorageEnforce=limits
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=cuda Nodes=cuda[1-2] Default=YES PriorityTier=1 DefaultTime=10 State=UP
PartitionName=cuda_high Nodes=cuda[1-2] PriorityTier=10 PreemptMode=OFF DefaultTime=10 State=UP
PartitionName=cuda_grace Nodes=cuda[1-2] PriorityTier=1 GraceTime=5 DefaultTime=10 State=UP
PartitionName=gaudi Nodes=gaudi[1-2] PriorityTier=1 DefaultTime=10 State=UP
"""


def gres_conf(folder: Path) -> str:
    """Devices are links to /dev/null: a regular file leaves CUDA_VISIBLE_DEVICES empty."""
    return f"""\
AutoDetect=off
NodeName=cuda[1-2] Name=gpu Type=h100 File={folder}/dev/gpu[0-1]
NodeName=gaudi[1-2] Name=hpu Type=gaudi2 File={folder}/dev/hpu[0-1]
"""


def slurmdbd_conf(folder: Path, user: str, ports: Ports) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports.accounting}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""
