#!/usr/bin/env bash
# rrd_search on a Slurm cluster: sbatch cluster/slurm.sh rrd --data cifar100 --name r32x4-r8x4 --trials 60
# Starts Ray and MLflow on the nodes of the job, runs the same command on them, and ends with it. Before the time is up
# the trials write checkpoints; sbatch again, and the search goes on. Lines marked EDIT are yours.
#SBATCH --job-name=rrd_search
#SBATCH --nodes=2                   # EDIT
#SBATCH --gpus-per-node=4           # EDIT
#SBATCH --cpus-per-task=32          # EDIT: of a node
#SBATCH --ntasks-per-node=1         # partition and account, where your site asks for them: sbatch -p ... -A ...
#SBATCH --time=24:00:00             # EDIT
#SBATCH --signal=B:TERM@120         # two minutes before the time is up
#SBATCH --output=rrd_search-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?"this is a batch script: sbatch cluster/slurm.sh SPACE --name NAME ..."}"
source .venv/bin/activate           # of `make install`, on a file system that all nodes share
export RRD_STORAGE=${RRD_STORAGE:-file://$PWD/runs}  # EDIT: a shared folder, as a URI
port=$((20000 + SLURM_JOB_ID % 5000 * 2))            # two jobs may share a node: this one is Ray's, the next MLflow's
export MLFLOW_TRACKING_URI=http://127.0.0.1:$((port + 1))  # on the first node
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

# A token for this job alone. Only you can read it, so only you are let into the cluster.
own=$(umask 077 && mktemp -d "$PWD/.rrd_search-$SLURM_JOB_ID.XXXX")
export RAY_AUTH_TOKEN_PATH=$own/token
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

head=$(hostname)
address=$(hostname --ip-address | awk '{print $1}'):$port
children=()
finish() {
    kill "${children[@]}" 2> /dev/null || true
    wait "${children[@]}" 2> /dev/null || true
    rm -rf "$own"
}
trap finish EXIT

mlflow server --host 127.0.0.1 --port $((port + 1)) --workers 2 \
    --backend-store-uri "sqlite:///${TMPDIR:-/tmp}/rrd-mlflow-$UID-$SLURM_JOB_ID.db" \
    --artifacts-destination "$RRD_STORAGE/mlartifacts" > "rrd_search-$SLURM_JOB_ID-mlflow.log" 2>&1 &
children+=($!)
echo "MLflow: ssh -L 5000:127.0.0.1:$((port + 1)) $head, and while that is open: http://127.0.0.1:5000"
srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --node-ip-address="${address%:*}" --port="$port" \
    --dashboard-host=127.0.0.1 --object-store-memory=200000000 --temp-dir="/tmp/ray-$SLURM_JOB_ID" --block &
children+=($!)
until ray status --address "$address" > /dev/null 2>&1; do
    kill -0 "${children[-1]}" 2> /dev/null || { echo "slurm.sh: Ray did not start on $head" >&2; exit 1; }
    sleep 2
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        ray start --address="$address" --object-store-memory=200000000 --block &
    children+=($!)
fi

RAY_ADDRESS=$address python -m rrd_search.tune "$@" &
search=$!
trap 'kill -TERM $search' TERM      # the search leaves in order, and tells how to go on
code=0
wait $search || code=$?
while kill -0 $search 2> /dev/null; do wait $search || code=$?; done
exit $code
