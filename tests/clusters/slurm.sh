#!/usr/bin/env bash
# A real Slurm and a real sshd on loopback, on a bare Debian 12 or newer, as root, without systemd.
#
#   slurm.sh up [OPTION…]                  bring up what does not run; prints the path of the description that cluster.py reads
#   slurm.sh up --accounting | --limits    the same with mariadb and slurmdbd, and with the limits of accounts enforced
#   slurm.sh down [--wipe]                 end every process of it; --wipe also removes its state, and after the last one the users
#   slurm.sh start [DAEMON…]               start what does not run of it, with the settings of the last `up`
#   slurm.sh signal SIGNAL DAEMON          TERM and KILL wait for the end; CUT, for sshd alone, ends its open sessions
#
# A DAEMON is munged, sshd, mariadbd, slurmdbd, slurmctld or slurmd:n1. Options:
#   --name NAME            which instance; several stand side by side (else plain, accounting or limits, after the mode)
#   --nodes N              slurmd daemons, up to 16 (4), each claiming 64 CPUs, 64 GiB and 4 GPUs
#   --cgroup               memory is confined by cgroup v1, which must be writable (else Slurm polls and kills)
#   --slurm-conf K=V, --slurmdbd-conf K=V, --sshd-conf 'K V'
#                          a line that replaces the default of its key; `K=` removes it; may be given again
#
# What it touches: /var/lib/reconciler-slurm/NAME (settings, keys, state, logs), /run/reconciler-slurm/NAME (sockets, pids), loopback
# ports 21000–22999, /run/sshd, the users rechpc and rechpc2 with their homes, /etc/hosts where there is none, and the packages, whose
# own daemons it keeps from being started. Never a configuration in /etc/slurm or /etc/munge, and never a process that it did not
# start: a pid is believed only with the right program and this instance's path.
set -euo pipefail
export LC_ALL=C # a decimal point, and texts that are compared

users=(rechpc rechpc2) # the first is the one that ssh_config names
root_state=/var/lib/reconciler-slurm
root_run=/run/reconciler-slurm
self=$(realpath "$0")

say() { printf '%6.2fs %s\n' "$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')" "$*" >&2; }
die() { printf 'slurm.sh: %s\n' "$*" >&2; exit 1; }
die_with_log() { # message, log file
    printf 'slurm.sh: %s; the end of %s:\n' "$1" "$2" >&2
    tail -n 20 "$2" >&2 || true
    exit 1
}
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$self"; }
began=$EPOCHREALTIME

# ---- processes ------------------------------------------------------------------------------------------------------------------

pid_file() { # daemon
    case $1 in
        munged) echo "$run/munge/munged.pid" ;;
        slurmd:*) echo "$run/slurm/slurmd.${1#*:}.pid" ;;
        *) echo "$run/slurm/$1.pid" ;;
    esac
}

pid_of() { # daemon: its pid, if it is alive and ours
    local pid="" _ program="" state=""
    read -r pid 2>/dev/null <"$(pid_file "$1")" || return 1
    read -r program 2>/dev/null <"/proc/$pid/comm" || return 1
    [ "$program" = "${1%%:*}" ] || return 1
    read -r _ _ state _ 2>/dev/null <"/proc/$pid/stat" || return 1
    [ "$state" != Z ] || return 1
    # /run may outlive its processes (a container's restart), and pids come round: the path of this instance must be in it
    grep -qsaF "/reconciler-slurm/$name/" "/proc/$pid/cmdline" "/proc/$pid/environ" || return 1
    echo "$pid"
}
alive() { pid_of "$1" >/dev/null; }

daemons() { # in the order of starting
    local number
    printf '%s\n' munged sshd
    [ "$mode" = plain ] || printf '%s\n' mariadbd slurmdbd
    echo slurmctld
    for ((number = 1; number <= nodes; number++)); do echo "slurmd:n$number"; done
}

within() { # seconds, command…: is it true before they are over?
    local end=$((${EPOCHREALTIME/./} + $1 * 1000000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "${EPOCHREALTIME/./}" -lt $end ] || return 1
        sleep 0.05
    done
}

ended() { local _ state; ! read -r _ _ state _ 2>/dev/null <"/proc/$1/stat" || [ "$state" = Z ]; }

stop() { # daemon
    local pid
    if pid=$(pid_of "$1"); then
        kill -TERM "$pid" 2>/dev/null || true
        kill -CONT "$pid" 2>/dev/null || true # a stopped process ends only when it goes on
        within 15 ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
        within 5 ended "$pid" || die "$1 ($pid) does not end"
    fi
    rm -f "$(pid_file "$1")"
}

sessions() { # pids of sshd's open sessions, while their sshd lives
    local listener
    listener=$(pid_of sshd) || return 0
    descend "$listener"
}
descend() { # pid: those below it that are sshd's own, the user's programs not among them
    local child
    for child in $(pgrep -P "$1" '^sshd' || true); do
        echo "$child"
        descend "$child"
    done
}
cut_sessions() {
    local pid
    for pid in $(sessions); do kill -KILL "$pid" 2>/dev/null || true; done
}

signal() { # SIGNAL daemon
    local pid
    if [ "$1" = CUT ]; then cut_sessions; return; fi
    pid=$(pid_of "$2") || die "$2 of $name does not run"
    kill "-$1" "$pid"
    case $1 in TERM | KILL) within 20 ended "$pid" || die "$2 ($pid) does not end" ;; esac
}

# ---- packages, users, folders ---------------------------------------------------------------------------------------------------

install_packages() {
    local wanted=(slurmctld slurmd slurm-client munge openssh-server openssh-client procps) missing=() package policy=/usr/sbin/policy-rc.d made=""
    [ "$mode" = plain ] || wanted+=(slurmdbd mariadb-server-core mariadb-client-core) # not mariadb-server: that brings galera, perl, rsync
    for package in "${wanted[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    if [ ! -e $policy ]; then # a package that is installed for its program must not start a server
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && made=yes
    fi
    # without its recommendations: slurmctld recommends hdf5, influxdb, rrd …
    local apt=(apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0
        -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io) code=0 log=$root_state/apt.log
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" "${missing[@]}" >"$log" 2>&1 </dev/null ||
        { apt-get update -qq >>"$log" 2>&1 && "${apt[@]}" "${missing[@]}" >>"$log" 2>&1 </dev/null; } || code=$?
    [ -z "$made" ] || rm -f $policy
    [ $code = 0 ] || die_with_log "apt-get failed" "$log"
}

make_users() {
    local user
    for user in "${users[@]}"; do
        id "$user" >/dev/null 2>&1 && continue
        useradd -m -s /bin/bash -p '*' "$user" # '*', not the usual '!': sshd without PAM refuses a locked account
        echo "$user" >>$root_state/users
    done
}

remove_users() { # those that we made, when no instance is left
    local user
    [ -s $root_state/users ] && [ -z "$(find $root_state -mindepth 1 -maxdepth 1 -type d)" ] || return 0
    while read -r user; do userdel -r "$user" >/dev/null 2>&1 || say "user $user stays: something of it still runs"; done <$root_state/users
    rm -f $root_state/users
}

make_folders() {
    mkdir -p "$run/munge" "$run/slurm" "$state"/{etc,log,munge,mysql,spool/slurmctld} /run/sshd
    chmod 755 $root_run $root_state "$run" "$state" "$state"/{etc,log,spool}
    chown munge:munge "$run/munge" "$state/munge" && chmod 755 "$run/munge" && chmod 700 "$state/munge"
    chown -R slurm:slurm "$run/slurm" "$state/log" "$state/mysql" "$state/spool/slurmctld"
    [ -s "$state/munge/key" ] || head -c 128 /dev/urandom >"$state/munge/key"
    chown munge:munge "$state/munge/key" && chmod 400 "$state/munge/key"
    local key
    for key in id_ed25519 host_key; do
        [ -s "$state/$key" ] || ssh-keygen -q -t ed25519 -N '' -C "reconciler-slurm $name" -f "$state/$key"
    done
}

choose_port() { # the first of a block of twenty, kept as long as the state is
    local first port
    if [ ! -s "$state/port" ]; then
        # below 32768: above it an outgoing connection takes a port now and then
        for ((first = 21000; first < 23000; first += 20)); do
            grep -qsxF $first $root_state/*/port && continue
            for ((port = first; port < first + 20; port++)); do
                if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
            done
            echo $first >"$state/port"
            break
        done
        [ -s "$state/port" ] || die "no free block of ports in 21000–22999"
    fi
    read -r port_first <"$state/port"
}

# Slurm's daemons listen on the address of the machine's own name. Where that is not loopback they, and sshd, get another name for it,
# which needs the right to make a UTS namespace.
choose_host() {
    enter=(env --default-signal) # a caller in the background ignores interrupts, and jobs would inherit that
    host=$(uname -n) && host=${host%%.*}
    address=$(getent ahostsv4 "$(uname -n)" | awk 'NR == 1 { print $1 }') || true
    case $address in 127.*) return ;; esac
    [ -e /etc/hosts ] || echo '127.0.0.1 localhost' >/etc/hosts # a fresh debootstrap has none
    host=localhost
    address=$(getent ahostsv4 localhost | awk 'NR == 1 { print $1 }') || true
    case $address in 127.*) ;; *) die "localhost has no loopback address here: /etc/hosts needs '127.0.0.1 localhost'" ;; esac
    # shellcheck disable=SC2016 # the inner shell expands it
    enter+=(unshare --uts sh -c 'hostname localhost && exec "$@"' sh)
    "${enter[@]}" true 2>/dev/null || die "the name $(uname -n) is not loopback: put '127.0.1.1 $(uname -n)' first in /etc/hosts"
}

# ---- configuration --------------------------------------------------------------------------------------------------------------

with_lines() { # line…: standard input, each KEY=VALUE line of a given key replaced; nodes and partitions are only added to
    local keys
    keys=$(printf '%s\n' "$@" | sed -n '/^\(NodeName\|PartitionName\)=/d;s/^\([A-Za-z]*\)=.*/^\1=/p')
    if [ -n "$keys" ]; then grep -ivf <(echo "$keys"); else cat; fi
    printf '%s\n' "$@" | sed '/=$/d;/^$/d'
}

slurm_conf() {
    cat <<END
ClusterName=${name//-/}
SlurmctldHost=$host($address)
SlurmctldPort=$((port_first + 1))
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$munge_socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$state/spool/slurmctld
SlurmdSpoolDir=$state/spool/slurmd.%n
SlurmctldPidFile=$(pid_file slurmctld)
SlurmdPidFile=$(pid_file slurmd:%n)
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
KillWait=5
OverTimeLimit=0
MinJobAge=300
MaxJobCount=20000
MaxArraySize=1001
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=64
SchedulerType=sched/backfill
PriorityType=priority/basic
JobRequeue=1
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
JobCompType=jobcomp/filetxt
JobCompLoc=$state/log/jobcomp.log
MailProg=/bin/true
END
    # a job starts within 0.6 s of its submission, not 1.7 s
    echo SchedulerParameters=batch_sched_delay=0
    # nodes claim more than this machine has
    echo SlurmdParameters=config_overrides
    if [ "$cgroup" = yes ]; then
        printf '%s\n' ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup
    else
        printf '%s\n' ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherParams=OverMemoryKill
    fi
    if [ "$mode" = plain ]; then
        echo AccountingStorageType=accounting_storage/none
    else
        # AuthInfo's socket is not used towards slurmdbd; that one is called a password
        printf '%s\n' AccountingStorageType=accounting_storage/slurmdbd "AccountingStorageHost=$address" \
            "AccountingStoragePort=$((port_first + 2))" "AccountingStoragePass=$munge_socket" TrackWCKey=yes \
            AccountingStoreFlags=job_comment,job_env,job_script
    fi
    [ "$mode" != limits ] || echo AccountingStorageEnforce=associations,limits,qos
    local number
    for ((number = 1; number <= nodes; number++)); do
        echo "NodeName=n$number NodeHostname=$host NodeAddr=$address Port=$((port_first + 3 + number)) CPUs=64" \
            "RealMemory=65536 Gres=gpu:4 Feature=$([ "$number" = 1 ] && echo big || echo small) State=UNKNOWN"
    done
    printf '%s\n' GresTypes=gpu Licenses=compiler:2 # claimed, as the CPUs are
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP"
    echo "PartitionName=short Nodes=ALL MaxTime=10 DefaultTime=5 State=UP"
}

slurmdbd_conf() {
    cat <<END
AuthType=auth/munge
AuthInfo=socket=$munge_socket
CommunicationParameters=NoInAddrAny
DbdHost=$host
DbdAddr=$address
DbdPort=$((port_first + 2))
SlurmUser=slurm
DebugLevel=info
LogFile=$state/log/slurmdbd.log
PidFile=$(pid_file slurmdbd)
TrackWCKey=yes
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
END
}

cgroup_conf() {
    # Even when nothing is confined, slurmd chooses a kind of cgroup, and fails where none is mounted or systemd does not answer.
    if [ "$cgroup" = yes ]; then
        printf '%s\n' CgroupPlugin=cgroup/v1 CgroupMountpoint=/sys/fs/cgroup CgroupAutomount=yes ConstrainRAMSpace=yes ConstrainSwapSpace=no
    else
        case $(slurmd -V) in *" 2"[0-2].*) echo CgroupPlugin=cgroup/v1 ;; *) echo CgroupPlugin=disabled ;; esac
    fi
}

sshd_conf() {
    printf '%s\n' "${sshd_lines[@]}" # first: of a key that is there twice sshd takes the first
    cat <<END
Port $port_first
ListenAddress 127.0.0.1
HostKey $state/host_key
PidFile $(pid_file sshd)
AuthorizedKeysFile $state/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
AllowUsers ${users[*]}
UsePAM no
SetEnv SLURM_CONF=$SLURM_CONF
PrintMotd no
X11Forwarding no
Subsystem sftp internal-sftp
END
    # newer ones lock out an address that was refused a few times, which here is everybody
    if /usr/sbin/sshd -t -o PerSourcePenalties=no -h "$state/host_key" -f /dev/null 2>/dev/null; then echo PerSourcePenalties no; fi
}

ssh_config() {
    cat <<END
Host $name
  HostName 127.0.0.1
  Port $port_first
  User ${users[0]}
  IdentityFile $state/id_ed25519
  IdentitiesOnly yes
  UserKnownHostsFile $state/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
END
}

description() {
    cat <<END
{
  "name": "$name", "mode": "$mode", "version": "$(slurmctld -V | cut -d' ' -f2)", "nodes": $nodes,
  "host": "127.0.0.1", "port": $port_first, "user": "${users[0]}", "other_user": "${users[1]}",
  "key": "$state/id_ed25519", "known_hosts": "$state/known_hosts", "ssh_config": "$state/ssh_config",
  "slurm_conf": "$SLURM_CONF", "state": "$state", "run_folder": "$run", "log": "$state/log", "script": "$self"
}
END
}

replaced() { # file, mode: standard input becomes its content, at once; true if that was another
    local new=$1.new
    cat >"$new" && chmod "$2" "$new"
    if cmp -s "$new" "$1"; then rm "$new"; return 1; fi
    mv "$new" "$1"
}
written() { replaced "$@" || true; }

configure() { # a changed configuration ends the daemons that read it; jobs go on
    local daemon
    written "$state/authorized_keys" 644 <"$state/id_ed25519.pub"
    echo "[127.0.0.1]:$port_first,[localhost]:$port_first $(cut -d' ' -f1,2 "$state/host_key.pub")" | written "$state/known_hosts" 644
    ssh_config | written "$state/ssh_config" 644
    if sshd_conf | replaced "$state/sshd_config" 644; then stop sshd; fi
    if [ "$mode" != plain ]; then
        if slurmdbd_conf | with_lines "${slurmdbd_lines[@]}" | replaced "$state/etc/slurmdbd.conf" 600; then stop slurmdbd; fi
        chown slurm:slurm "$state/etc/slurmdbd.conf"
    else
        stop slurmdbd
        stop mariadbd
    fi
    local changed=""
    if cgroup_conf | replaced "$state/etc/cgroup.conf" 644; then changed=yes; fi
    # a GPU is a file that exists; nothing opens these
    if echo "Name=gpu File=/dev/null,/dev/zero,/dev/full,/dev/random" | replaced "$state/etc/gres.conf" 644; then changed=yes; fi
    if slurm_conf | with_lines "${slurm_lines[@]}" | replaced "$SLURM_CONF" 644; then changed=yes; fi
    if [ -n "$changed" ]; then
        for daemon in slurmctld $(seq -f 'slurmd:n%g' 16); do stop "$daemon"; done
    fi
    echo "mode=$mode nodes=$nodes" | written "$state/settings" 644
    description | written "$state/cluster.json" 644
}

# ---- starting -------------------------------------------------------------------------------------------------------------------

munge_answers() { munge -S "$munge_socket" -n | unmunge -S "$munge_socket"; }
start_munged() {
    rm -f "$munge_socket"*
    "${enter[@]}" setpriv --reuid=munge --regid=munge --clear-groups /usr/sbin/munged --num-threads=4 --origin=127.0.0.1 --socket="$munge_socket" \
        --pid-file="$(pid_file munged)" --key-file="$state/munge/key" --log-file="$state/munge/log" --seed-file="$state/munge/seed"
    within 5 munge_answers || die_with_log "munged does not answer" "$state/munge/log"
}

start_sshd() {
    "${enter[@]}" /usr/sbin/sshd -f "$state/sshd_config" -E "$state/log/sshd.log"
    within 5 alive sshd || die_with_log "sshd did not start" "$state/log/sshd.log"
}

sql() { setpriv --reuid=slurm --regid=slurm --clear-groups mariadb --no-defaults -u slurm -S "$sql_socket" -e "$1"; }
start_mariadbd() { # as the user slurm, on a socket only: no password, no port
    local log=$state/log/mariadbd.log
    if [ ! -d "$state/mysql/mysql" ]; then
        setpriv --reuid=slurm --regid=slurm --clear-groups mariadb-install-db --no-defaults --datadir="$state/mysql" --skip-test-db \
            --auth-root-authentication-method=socket --auth-root-socket-user=slurm >"$log" 2>&1 </dev/null || die_with_log "mariadb-install-db failed" "$log"
    fi
    setsid setpriv --reuid=slurm --regid=slurm --clear-groups /usr/sbin/mariadbd --no-defaults --datadir="$state/mysql" \
        --socket="$sql_socket" --skip-networking --pid-file="$(pid_file mariadbd)" --innodb-buffer-pool-size=256M \
        --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=2 --innodb-log-file-size=64M --skip-log-bin \
        --performance-schema=OFF </dev/null >>"$log" 2>&1 &
    within 30 sql "select 1" || die_with_log "mariadbd does not answer" "$log"
    sql "create database if not exists slurm_acct_db" || die "mariadbd makes no database"
}

start_slurmdbd() {
    MYSQL_UNIX_PORT=$sql_socket setsid "${enter[@]}" /usr/sbin/slurmdbd -D </dev/null >>"$state/log/slurmdbd.out" 2>&1 &
    within 40 sacctmgr -n list cluster || die_with_log "slurmdbd does not answer" "$state/log/slurmdbd.log"
    make_accounts
}

make_accounts() { # before slurmctld starts: with limits it refuses a user without an account
    local user list cluster=${name//-/}
    sacctmgr -nP list cluster format=cluster | grep -qx "$cluster" || sacctmgr -iQ add cluster "$cluster" >/dev/null || die "no cluster $cluster"
    sacctmgr -nP list account format=account | grep -qx science || sacctmgr -iQ add account science >/dev/null || die "no account science"
    list=$(sacctmgr -nP list association format=user)
    for user in "${users[@]}"; do
        grep -qx "$user" <<<"$list" && continue
        sacctmgr -iQ add user "$user" DefaultAccount=science DefaultWCKey=default >/dev/null || die "no account for $user"
    done
}

start_slurmctld() {
    "${enter[@]}" /usr/sbin/slurmctld -f "$SLURM_CONF" </dev/null >>"$state/log/slurmctld.out" 2>&1 ||
        die_with_log "slurmctld did not start" "$state/log/slurmctld.out"
    within 20 scheduler_up || die_with_log "slurmctld does not answer" "$state/log/slurmctld.log"
}
scheduler_up() { case $(timeout 5 scontrol ping 2>&1) in *"is UP"*) ;; *) return 1 ;; esac; }

start_slurmd() { # node; Debian's build lets several live on one machine, told apart by -N
    mkdir -p "$state/spool/slurmd.$1"
    "${enter[@]}" /usr/sbin/slurmd -f "$SLURM_CONF" -N "$1" </dev/null >>"$state/log/slurmd.$1.out" 2>&1 ||
        die_with_log "slurmd $1 did not start" "$state/log/slurmd.$1.out"
}

node_states() { timeout 5 sinfo -h -N -p main -o '%N %T' | sort -u; }
nodes_up() { [ "$(node_states | grep -cE ' (idle|mixed|allocated|completing|planned|reserved)$')" = "$nodes" ]; }

start() { # daemon; says true if it had to
    if alive "$1"; then
        kill -CONT "$(pid_of "$1")"
        return 1
    fi
    rm -f "$(pid_file "$1")"
    case $1 in slurmd:*) start_slurmd "${1#*:}" ;; *) "start_$1" ;; esac
    say "$1 started"
}

start_all() {
    local daemon
    started=""
    for daemon in $(daemons); do
        if start "$daemon"; then started=yes; fi
    done
    # one that was drained, or down for long, waits to be called back
    if node_states | grep -qE ' (drain|down)'; then scontrol update nodename="n[1-$nodes]" state=resume 2>/dev/null || true; fi
    within 20 nodes_up || { node_states >&2; die_with_log "nodes are not up" "$state/log/slurmctld.log"; }
}

check_job() { # one job over ssh; not `sbatch --wait`, which looks 2 s, 4 s … apart. Slurm's first pass comes 3 s after its start.
    local out
    out=$(ssh -F "$state/ssh_config" "$name" 'job=$(sbatch --parsable -D / -o /dev/null -J check --wrap true) || exit 1
        for _ in $(seq 150); do
            case $(scontrol -o show job "$job") in *JobState=COMPLETED*) exit 0 ;; esac
            sleep 0.1
        done
        scontrol show job "$job"; exit 1' 2>&1) || die "a job over ssh failed: $out"
}

# ---- ending ---------------------------------------------------------------------------------------------------------------------

cancel_jobs() {
    local user
    alive slurmctld && kill -CONT "$(pid_of slurmctld)" && scheduler_up || return 0
    for user in "${users[@]}"; do timeout 10 scancel -u "$user" 2>/dev/null || true; done
    within 10 queue_empty || true
}
queue_empty() { [ -z "$(timeout 5 squeue -h -o %A || echo unknown)" ]; }

sweep() { # what jobs left behind: slurmstepd, and whatever of our users has this instance in its environment
    local pid
    for pid in $(pgrep -x slurmstepd || true) $(pgrep -u "$(IFS=,; echo "${users[*]}")" 2>/dev/null || true); do
        if grep -qsaF "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ"; then kill -KILL "$pid" 2>/dev/null || true; fi
    done
}

down() {
    local daemon
    if [ "$wipe" = yes ]; then cancel_jobs; fi
    for daemon in $(seq -f 'slurmd:n%g' 16) slurmctld slurmdbd mariadbd; do stop "$daemon"; done
    cut_sessions
    for daemon in sshd munged; do stop "$daemon"; done
    if [ "$wipe" = yes ]; then
        sweep
        machine_wide remove_state
    fi
}
remove_state() {
    rm -rf "${state:?}" "${run:?}"
    remove_users
}

# ---- the command line -----------------------------------------------------------------------------------------------------------

mode="" name="" nodes="" cgroup=no wipe=no words=() slurm_lines=() slurmdbd_lines=() sshd_lines=()
[ $# -gt 0 ] || { usage >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
        --accounting | --limits) mode=${1#--} ;;
        --cgroup) cgroup=yes ;;
        --wipe) wipe=yes ;;
        --help | -h) usage; exit 0 ;;
        --name | --nodes | --slurm-conf | --slurmdbd-conf | --sshd-conf)
            [ $# -gt 1 ] || die "$1 needs a value"
            case $1 in
                --name) name=$2 ;;
                --nodes) nodes=$2 ;;
                --slurm-conf) slurm_lines+=("$2") ;;
                --slurmdbd-conf) slurmdbd_lines+=("$2") ;;
                --sshd-conf) sshd_lines+=("$2") ;;
            esac
            shift
            ;;
        -*) die "unknown option $1; see --help" ;;
        *) words+=("$1") ;;
    esac
    shift
done
verb=${words[0]-} words=("${words[@]:1}")
name=${name:-${mode:-plain}}
[[ $name =~ ^[a-z][a-z0-9-]{0,30}$ ]] || die "a name is small letters, digits and dashes: $name"
[ "$(id -u)" = 0 ] || die "needs root"
state=$root_state/$name run=$root_run/$name munge_socket=$run/munge/socket sql_socket=$run/slurm/mariadb.sock
export SLURM_CONF=$state/etc/slurm.conf PATH="$PATH:/usr/sbin:/sbin"
unset MALLOC_ARENA_MAX LD_PRELOAD

# Several may call at once. Packages, users and ports are the machine's: one lock for all; the rest is the instance's own.
# Every daemon is started with both locks closed, or it would hold them for as long as it lives.
mkdir -p $root_state $root_run
machine_wide() { { flock 9 && "$@" 9>&-; } 9>$root_run/lock; }
with_instance() { { flock 7 && "$@" 7>&-; } 7>"$root_run/$name.lock"; }

settings_of_last_up() {
    [ -s "$state/settings" ] || die "there is no instance $name; see \`up\`"
    # shellcheck disable=SC1091 # written by configure
    . "$state/settings"
}

prepare() {
    install_packages
    make_folders
    make_users
    choose_port
}

up() {
    mode=${mode:-plain} nodes=${nodes:-4}
    [[ $nodes =~ ^([1-9]|1[0-6])$ ]] || die "--nodes is 1 to 16"
    machine_wide prepare
    choose_host
    configure
    start_all
    if [ -n "$started" ]; then check_job; fi
    say "$name is up: Slurm $(slurmctld -V | cut -d' ' -f2), $mode, ssh -F $state/ssh_config $name"
    echo "$state/cluster.json"
}

start_words() {
    local daemon
    settings_of_last_up
    choose_port
    choose_host
    if [ ${#words[@]} = 0 ]; then start_all; return; fi
    for daemon in "${words[@]}"; do
        daemons | grep -qx "$daemon" || die "$name has no $daemon"
        start "$daemon" || true
    done
}

case $verb in
    up) with_instance up ;;
    down) with_instance down ;;
    start) with_instance start_words ;;
    signal)
        [ ${#words[@]} = 2 ] || die "signal SIGNAL DAEMON"
        signal "${words[@]}"
        ;;
    *) usage >&2; exit 2 ;;
esac
