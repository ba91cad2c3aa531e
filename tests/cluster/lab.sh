#!/bin/bash
# A real Slurm of three nodes on one Debian 12 machine, for tests/cluster. Run as root; starts only what is missing.
#
#   lab.sh up                    install, configure, start; prints "ready" once a step has run on every node
#   lab.sh down                  stop everything it started and take its network and names away again
#   lab.sh on|off NODE           power: off kills every process of the node at once
#   lab.sh cut|mend NODE         the node's network cable
#   lab.sh kill-slurmd NODE      only slurmd dies; `on` starts it again
#   lab.sh exec NODE COMMAND...  as if by ssh
#   lab.sh ps                    processes of jobs on all nodes (none should be there when no job runs)
#
# A node is a set of namespaces with its own network, host name, process table, /tmp and /dev/shm; slurmd runs in each.
# The rest of the file system is shared, as by NFS. The controller, its database and the login node are the machine itself.
set -euo pipefail
LAB=${LAB:-/srv/placid-lab}
export LAB SLURM_CONF=$LAB/etc/slurm.conf
NODES=(n1 n2 n3) CPUS=4 GPUS=2 MEMORY=3000 DISK=2000
NET=10.78.0 BRIDGE=plbr0 LOGIN=plogin TAG='# placid-lab'
SELF=$(readlink -f "$0")

wait_for() {  # SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" > /dev/null 2>&1; do ((SECONDS < end)) || { echo "lab: gave up waiting for: $*" >&2; return 1; }; sleep 0.1; done
}
running() { [[ -s $1 ]] && grep -qs "$2" "/proc/$(< "$1")/comm"; }
stop() { running "$1" "$2" || return 0; kill "$(< "$1")"; wait_for 10 bash -c "! kill -0 $(< "$1")" || kill -9 "$(< "$1")"; }
# Slurm's daemons want to run on the host that the configuration names.
as_login() { setsid unshare --uts bash -c "hostname $LOGIN; exec \"\$@\"" bash "$@" < /dev/null > /dev/null 2>&1 & }

init_of() {  # pid of the node's first process, if it lives
  local pid; pid=$(cat "$LAB/run/$1.init" 2> /dev/null) || return 1
  grep -qsz "^PLACID_LAB_NODE=$1$" "/proc/$pid/environ" && echo "$pid"
}
enter() { local pid; pid=$(init_of "$1") || { echo "lab: $1 is off" >&2; return 1; }; shift
  nsenter --target "$pid" --mount --uts --ipc --net --pid --root --wd=/ -- "$@"; }

install_packages() {
  local wanted=(slurmctld slurmd slurm-client slurmdbd mariadb-server munge iproute2)
  dpkg-query -W -f='${db:Status-Status}\n' "${wanted[@]}" 2> /dev/null | grep -cx installed | grep -qx "${#wanted[@]}" && return
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "${wanted[@]}" > "$LAB/log/apt.log" 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${wanted[@]}"; } > "$LAB/log/apt.log" 2>&1 ||
    { tail -5 "$LAB/log/apt.log" >&2; exit 1; }
}

make_network() {
  grep -q "$TAG" /etc/hosts || {
    echo "$NET.1 $LOGIN $TAG"
    for k in "${!NODES[@]}"; do echo "$NET.$((11 + k)) ${NODES[k]} $TAG"; done
  } >> /etc/hosts
  ip route replace unreachable $NET.0/24 metric 9999  # should the bridge be gone, nothing leaves the machine
  ip link show $BRIDGE > /dev/null 2>&1 || { ip link add $BRIDGE type bridge; ip addr add $NET.1/24 dev $BRIDGE; ip link set $BRIDGE up; }
  for k in "${!NODES[@]}"; do
    local n=${NODES[k]}
    ip netns list | grep -qw "pl-$n" && continue
    ip netns add "pl-$n"
    ip link add "pl-$n" type veth peer name eth0 netns "pl-$n"
    ip link set "pl-$n" master $BRIDGE up
    ip -n "pl-$n" link set lo up
    ip -n "pl-$n" addr add "$NET.$((11 + k))/24" dev eth0
    ip -n "pl-$n" link set eth0 up  # no default route: compute nodes have no internet
  done
}

configure() {
  for ((g = 0; g < GPUS; g++)); do [[ -e /dev/plgpu$g ]] || { mknod "/dev/plgpu$g" c 1 3; chmod 666 "/dev/plgpu$g"; }; done
  cat > "$LAB/etc/slurm.conf" << C
ClusterName=placidlab
SlurmctldHost=$LOGIN($NET.1)
SlurmctldPort=7817
SlurmdPort=7818
SlurmUser=slurm
AuthType=auth/munge
# also how long a requeued job waits before it may start again (120 s by default)
AuthInfo=cred_expire=10,socket=$LAB/munge/socket
StateSaveLocation=$LAB/spool/ctld
SlurmdSpoolDir=$LAB/nodes/%n/spool
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd.%n.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd.%n.log
# one machine posing as three: believe the lines below, not the hardware
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_continue
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
GresTypes=gpu
# short timers, so that failures take seconds
SlurmdTimeout=15
SlurmctldTimeout=30
MessageTimeout=10
TCPTimeout=2
KillWait=5
InactiveLimit=0
MinJobAge=300
UnkillableStepTimeout=20
BatchStartTimeout=10
# partition high takes nodes from main
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PriorityType=priority/basic
JobRequeue=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$LOGIN
AccountingStoragePort=7819
AccountingStoragePass=$LAB/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
NodeName=DEFAULT CPUs=$CPUS RealMemory=$MEMORY TmpDisk=$DISK Gres=gpu:$GPUS State=UNKNOWN
$(for k in "${!NODES[@]}"; do echo "NodeName=${NODES[k]} NodeHostname=${NODES[k]} NodeAddr=$NET.$((11 + k))"; done)
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 DefaultTime=10 DefMemPerCPU=100 PriorityTier=1 GraceTime=20 State=UP
PartitionName=high Nodes=ALL MaxTime=1-0 DefaultTime=10 DefMemPerCPU=100 PriorityTier=10 PreemptMode=OFF State=UP
C
  echo "NodeName=n[1-3] Name=gpu File=/dev/plgpu[0-$((GPUS - 1))]" > "$LAB/etc/gres.conf"
  printf '%s\n' CgroupPlugin=cgroup/v1 CgroupMountpoint=/sys/fs/cgroup CgroupAutomount=no ConstrainCores=no \
    ConstrainRAMSpace=no ConstrainDevices=no > "$LAB/etc/cgroup.conf"
  cat > "$LAB/etc/slurmdbd.conf" << C
AuthType=auth/munge
AuthInfo=socket=$LAB/munge/socket
DbdHost=$LOGIN
DbdAddr=$NET.1
DbdPort=7819
SlurmUser=slurm
LogFile=$LAB/log/slurmdbd.log
PidFile=$LAB/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
C
  chown slurm "$LAB/etc/slurmdbd.conf"; chmod 600 "$LAB/etc/slurmdbd.conf"
}

start_munge() {
  local own=$LAB/munge  # munged insists on folders of its own
  running "$own/pid" munged && return
  [[ -s $own/key ]] || head -c 1024 /dev/urandom > "$own/key"
  chmod 400 "$own/key"; chown -R munge: "$own"
  runuser -u munge -- /usr/sbin/munged --socket="$own/socket" --key-file="$own/key" --pid-file="$own/pid" \
    --seed-file="$own/seed" --log-file="$own/log"
  wait_for 10 munge --socket="$own/socket" --no-input
}

start_accounting() {
  local socket=$LAB/run/mysql/mysql.sock sql=(mariadb --no-defaults --socket="$LAB/run/mysql/mysql.sock")
  if ! running "$LAB/run/mysql/mysqld.pid" maria; then
    [[ -d $LAB/mysql/mysql ]] || mariadb-install-db --no-defaults --user=mysql --datadir="$LAB/mysql" --skip-test-db \
      --auth-root-authentication-method=socket > "$LAB/log/mariadb-install.log" 2>&1
    setsid mariadbd --no-defaults --user=mysql --datadir="$LAB/mysql" --socket="$socket" --skip-networking \
      --pid-file="$LAB/run/mysql/mysqld.pid" --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=2 \
      --innodb-lock-wait-timeout=900 --log-error="$LAB/log/mariadb.log" < /dev/null > /dev/null 2>&1 &
    wait_for 40 mariadb-admin --no-defaults --socket="$socket" ping
  fi
  "${sql[@]}" -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db; GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost' IDENTIFIED VIA unix_socket;"
  running "$LAB/run/slurmdbd.pid" slurmdbd || MYSQL_UNIX_PORT=$socket as_login slurmdbd -D
  wait_for 40 timeout 5 sacctmgr -n -Q list cluster
  sacctmgr -n -P list assoc cluster=placidlab user=root | grep -q . || {
    sacctmgr -i -Q add cluster placidlab || true
    sacctmgr -i -Q add account lab cluster=placidlab
    sacctmgr -i -Q add user root account=lab cluster=placidlab
  } > /dev/null
}

power_on() {  # NODE
  local n=$1 up child
  ip link set "pl-$n" up
  if init_of "$n" > /dev/null; then
    # shellcheck disable=SC2016
    enter "$n" bash -c 'pidof slurmd slurmd-wlm > /dev/null || { setsid slurmd -D -f "$SLURM_CONF" < /dev/null > /dev/null 2>&1 & }'
    return
  fi
  rm -f "$LAB/run/$n.init"
  PLACID_LAB_NODE=$n setsid nsenter --net="/run/netns/pl-$n" \
    unshare --mount --uts --ipc --pid --fork --kill-child "$SELF" first-process "$n" < /dev/null > "$LAB/log/$n.init.log" 2>&1 &
  up=$!
  for _ in {1..100}; do child=$(cat "/proc/$up/task/$up/children" 2> /dev/null || true); [[ -n $child ]] && break; sleep 0.05; done
  echo "${child// /}" > "$LAB/run/$n.init"
}

first_process() {  # NODE; pid 1 in its namespaces
  local n=$1 own=$LAB/nodes/$1 tree
  hostname "$n"
  mount --make-rprivate /
  rm -rf "$own"/{tmp,vartmp}; mkdir -p "$own"/{tmp,vartmp,spool,cgroup}; chmod 1777 "$own"/{tmp,vartmp}
  mount --rbind /sys/fs/cgroup "$own/cgroup"
  mount -t sysfs sysfs /sys
  mount --rbind "$own/cgroup" /sys/fs/cgroup
  for tree in freezer memory cpuset cpu cpuacct devices; do  # its own slice of every tree of cgroup v1
    [[ -d /sys/fs/cgroup/$tree ]] || continue
    mkdir -p "/sys/fs/cgroup/$tree/placid_$n"
    if [[ $tree = cpuset ]]; then
      for k in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$k" > "/sys/fs/cgroup/cpuset/placid_$n/cpuset.$k"; done
    fi
    mount --bind "/sys/fs/cgroup/$tree/placid_$n" "/sys/fs/cgroup/$tree"
  done
  mount --bind "$own/tmp" /tmp; mount --bind "$own/vartmp" /var/tmp
  mount -t tmpfs -o mode=1777,size=2g tmpfs /dev/shm
  mount -t proc proc /proc
  trap : TERM INT HUP
  slurmd -D -f "$SLURM_CONF" < /dev/null > /dev/null 2>&1 &
  while :; do sleep 3600 & wait $! || true; done  # as pid 1, bash reaps orphans
}

all_idle() { [[ $(sinfo -h -N -p main -o %T | sort | uniq -c | tr -s ' ') = " ${#NODES[@]} idle" ]]; }

up() {
  [[ $(id -u) = 0 ]] || { echo "lab: must be root" >&2; exit 1; }
  mkdir -p "$LAB"/{etc,log,munge,run/mysql,spool/ctld,nodes,mysql,work}
  install_packages
  chown slurm "$LAB"/{log,run,spool/ctld}; chown mysql "$LAB"/{mysql,run/mysql}
  make_network
  configure
  start_munge
  start_accounting
  running "$LAB/run/slurmctld.pid" slurmctld || as_login slurmctld -D -f "$SLURM_CONF"
  wait_for 40 timeout 5 scontrol ping
  for n in "${NODES[@]}"; do power_on "$n"; done
  for n in "${NODES[@]}"; do
    case $(sinfo -h -n "$n" -p main -o %T) in drain* | down*) scontrol update nodename="$n" state=resume || true ;; esac
  done
  wait_for 60 all_idle || { sinfo -N -l; exit 1; }
  # the controller's idea of a node may be seconds old, so a step must really have run on each
  wait_for 60 timeout 15 srun -Q -p main -A lab -N "${#NODES[@]}" --ntasks-per-node=1 -c1 --mem=10 -t1 -J check true
  wait_for 20 all_idle
  echo ready
}

down() {
  local n tree pid
  for n in "${NODES[@]}"; do if pid=$(init_of "$n"); then kill -9 "$pid"; fi; rm -f "$LAB/run/$n.init"; done
  stop "$LAB/run/slurmctld.pid" slurmctld
  stop "$LAB/run/slurmdbd.pid" slurmdbd
  stop "$LAB/run/mysql/mysqld.pid" maria
  stop "$LAB/munge/pid" munged
  for n in "${NODES[@]}"; do
    ip link del "pl-$n" 2> /dev/null || true; ip netns del "pl-$n" 2> /dev/null || true
    for tree in freezer memory cpuset cpu cpuacct devices; do
      [[ -d /sys/fs/cgroup/$tree/placid_$n ]] && find "/sys/fs/cgroup/$tree/placid_$n" -depth -type d -exec rmdir {} + 2> /dev/null || true
    done
  done
  ip link del $BRIDGE 2> /dev/null || true
  ip route del unreachable $NET.0/24 metric 9999 2> /dev/null || true
  sed "/$TAG\$/d" /etc/hosts > "$LAB/run/hosts" && cat "$LAB/run/hosts" > /etc/hosts  # not mv: it may be a bind mount
  rm -f /dev/plgpu*
  rm -rf --one-file-system "${LAB:?}"/{munge,nodes,mysql,spool,run}
}

verb=${1:?up, down, on, off, cut, mend, kill-slurmd, exec or ps}; shift
case $verb in
  up | down) "$verb" ;;
  first-process) first_process "$1" ;;
  on) power_on "$1" ;;
  off) kill -9 "$(init_of "$1")" ;;
  cut) ip link set "pl-$1" down ;;
  mend) ip link set "pl-$1" up ;;
  kill-slurmd) enter "$1" pkill -9 -x 'slurmd|slurmd-wlm' ;;
  exec) enter "$@" ;;
  ps) for n in "${NODES[@]}"; do
        enter "$n" ps -eo pid,ppid,args --no-headers | grep -vE '^ *[0-9]+ +[0-9]+ ((/bin/)?bash [^ ]*lab.sh first-process|(/usr/sbin/)?slurmd -D|sleep 3600$|ps -eo)' | sed "s/^/$n /" || true
      done ;;
  *) sed -n 4,12p "$SELF" >&2; exit 2 ;;
esac
