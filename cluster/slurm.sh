#!/usr/bin/env bash
# rrd_search on a Slurm cluster: sbatch cluster/slurm.sh rrd --data cifar100 --name r32x4-r8x4 --trials 60
# Starts Ray and MLflow on the nodes of the job, runs the same command on them, and ends with it. Before the time is up
# the trials write checkpoints; sbatch again, and the search goes on. Lines marked EDIT are yours.
#SBATCH --job-name=rrd_search
#SBATCH --nodes=2                   # EDIT
#SBATCH --gpus-per-node=4           # EDIT
#SBATCH --cpus-per-task=32          # EDIT: of a node
#SBATCH --ntasks-per-node=1         # partition and account, where your site asks for them: sbatch -p ... -A ...
#SBATCH --exclusive                 # MLflow asks for no password: others on the first node could read and delete there
#SBATCH --time=24:00:00             # EDIT
#SBATCH --signal=B:TERM@120         # two minutes before the time is up
#SBATCH --output=rrd_search-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?"this is a batch script: sbatch cluster/slurm.sh SPACE --name NAME ..."}"
source .venv/bin/activate           # of `make install`, on a file system that all nodes share
export RRD_STORAGE=${RRD_STORAGE:-file://$PWD/runs}  # EDIT: a shared folder, as a URI
patience=${RRD_START_SECONDS:-300}                   # for Ray on the first node, and again for the other nodes
port=$((20000 + SLURM_JOB_ID % 5000 * 2))            # each job has its own: this one is Ray's, the next MLflow's
export MLFLOW_TRACKING_URI=http://127.0.0.1:$((port + 1))  # on the first node
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
everywhere=(srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES")

search='' own='' scratch=''
fail() { echo "slurm.sh: $*" >&2; exit 1; }
stop() {
    trap '' TERM                    # a second one would end the search before its trials have written checkpoints
    [ -n "$search" ] || exit 143
    kill -TERM "$search" 2> /dev/null || true  # it leaves in order, and tells how to go on
}
finish() {
    trap '' TERM
    exec 2> /dev/null               # bash would tell of each process that it ends
    kill $(jobs -pr) || true
    for _ in {1..150}; do [ -n "$(jobs -pr)" ] && sleep 0.2 || break; done  # half a minute; Slurm ends what is left
    timeout -s KILL 30 "${everywhere[@]}" --overlap rm -rf "$scratch" || true
    rm -rf "$own" "$scratch" || true
}
trap stop TERM; trap finish EXIT

# A token for this job alone. Only you can read it, so only you are let into the cluster.
own=$(mktemp -d "$PWD/.rrd_search-$SLURM_JOB_ID.XXXX")
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$own/token")
scratch=$(mktemp -d "/tmp/rrd-$SLURM_JOB_ID.XXXX")  # on the nodes: paths of Ray's sockets must be short
"${everywhere[@]}" mkdir -p -m 700 "$scratch"       # or Ray makes it for everybody

head=${SLURMD_NODENAME:-$(hostname)}  # the name that Slurm knows; `hostname` may say it with a domain
ip=$({ hostname --ip-address || true; hostname -I || true; } 2> /dev/null |
    awk -v RS='[ \n]+' '/^[0-9.]+$/ && !/^(127|169\.254)\./ && !seen++')  # one that other nodes can reach
[ -n "$ip" ] || fail "$head has no IPv4 address but loopback, so that no other node could join"
export RAY_ADDRESS=$ip:$port RAY_AUTH_TOKEN_PATH=$own/token

mlflow server --host 127.0.0.1 --port $((port + 1)) --workers 2 --backend-store-uri "sqlite:///$scratch/mlflow.db" \
    --artifacts-destination "${RRD_STORAGE%%\?*}/mlartifacts" > "rrd_search-$SLURM_JOB_ID-mlflow.log" 2>&1 &
echo "MLflow: ssh -L 5000:127.0.0.1:$((port + 1)) $(hostname), and while that is open: http://127.0.0.1:5000"

# Since Slurm 22.05 a step does not take over --cpus-per-task: where sites bind tasks to cores, it would have one.
# Ray would count all CPUs of the machine.
srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$head" \
    ray start --head --node-ip-address="$ip" --port="$port" --dashboard-host=127.0.0.1 --temp-dir="$scratch/ray" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=200000000 --block &
ray=$! end=$((SECONDS + patience))
until (exec 3<> "/dev/tcp/$ip/$port") 2> /dev/null; do  # `ray status` would take 45 s to say no
    kill -0 $ray 2> /dev/null && [ $SECONDS -lt $end ] || fail "Ray did not start on $head within $patience seconds"
    sleep 2
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        --cpus-per-task="$SLURM_CPUS_PER_TASK" ray start --address="$RAY_ADDRESS" \
        --num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=200000000 --block &
    echo "slurm.sh: Ray runs on $head, waiting for the other nodes"
fi
python - "$SLURM_JOB_NUM_NODES" "$patience" << 'END' &
import sys, time, ray
wanted, patience = map(int, sys.argv[1:])
ray.init(log_to_driver=False, logging_level="ERROR")
for second in range(patience):
    alive = sum(node["Alive"] for node in ray.nodes())
    if alive == wanted:
        sys.exit()
    time.sleep(1)
print(f"slurm.sh: {alive} of {wanted} nodes are there after {patience} seconds, the search begins on these")
END
wait $! || fail "Ray on $head does not answer"

python -m rrd_search.tune "$@" & search=$!
while kill -0 $search 2> /dev/null; do wait $search || true; done  # TERM ends a `wait`, not the search
wait $search                        # for its own exit code, which is the job's
