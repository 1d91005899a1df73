#!/bin/bash
# A Slurm of two nodes on this machine, for tests: slurm_here.sh start FOLDER [PORT], then export SLURM_CONF=FOLDER/slurm.conf;
# slurm_here.sh stop FOLDER. Needs root, and Debian's slurmctld, slurmd, slurm-client and munge (no systemd). The node
# claims four processors, however many there are, so that four jobs run at the same time. A job that is queued again
# starts after ten seconds (cred_expire), where two minutes are usual.
set -euo pipefail
folder=$(realpath -m "$2")
if [ "$1" = stop ]; then
  for daemon in slurmd-node1 slurmd-node2 slurmctld munged; do
    kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
  done
  exit 0
fi
mkdir -p "$folder/state" "$folder/munge"
chmod 755 "$folder"
chmod 700 "$folder/munge"
host=$(hostname -s)
cat >"$folder/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${3:-16817}
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$folder/munge/socket,cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
KillWait=30
MinJobAge=60
ReturnToService=2
MpiDefault=none
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((${3:-16817} + 1)) CPUs=2 State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((${3:-16817} + 2)) CPUs=2 State=UNKNOWN
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=node1 State=DOWN
CONF
dd if=/dev/urandom of="$folder/munge/key" bs=1 count=1024 status=none
chmod 400 "$folder/munge/key"
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
export SLURM_CONF=$folder/slurm.conf
slurmctld
slurmd -N node1
slurmd -N node2
for _ in $(seq 100); do
  if [ "$(sinfo --noheader --partition=main --states=idle --format=%D 2>/dev/null)" = 2 ]; then
    exit 0
  fi
  sleep 0.2
done
echo "slurm_here.sh: not two idle nodes after 20 s; see $folder/slurmctld.log and slurmd-node1.log" >&2
exit 1
