#!/usr/bin/env bash
# Starts MLflow's server on the head, on loopback, in a tmux of its own (tmux -L mlflow attach); one that runs is left
# alone.
# Its database is on the head's disk: whatever is lost with that is sent again at the search's next start.
set -euo pipefail
artifacts=${RRD_STORAGE:?"RRD_STORAGE is not set: source ~/.rrd_search"}
case $artifacts in  # another S3 than Amazon's is named in the URI
    *endpoint_override=*)
        endpoint=${artifacts#*endpoint_override=} scheme=https
        case $artifacts in *scheme=http | *scheme=http\&*) scheme=http ;; esac
        export MLFLOW_S3_ENDPOINT_URL=$scheme://${endpoint%%&*} ;;
esac
folder=~/mlflow
mkdir -p -m 700 $folder
tmux -L mlflow has-session 2> /dev/null && exit 0
if (exec 3<> /dev/tcp/127.0.0.1/5000) 2> /dev/null; then
    echo "mlflow.sh: another program has port 5000 of $(hostname)" >&2
    exit 1
fi
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
tmux -L mlflow new-session -d "exec mlflow server --host 127.0.0.1 --port 5000 --workers 2 \
    --backend-store-uri sqlite:///$folder/mlflow.db --artifacts-destination '${artifacts%%\?*}/mlartifacts' \
    >> $folder/server.log 2>&1"
for second in {1..120}; do
    (exec 3<> /dev/tcp/127.0.0.1/5000) 2> /dev/null && exit 0
    tmux -L mlflow has-session 2> /dev/null || break
    sleep 1
done
echo "mlflow.sh: the server did not start: $(tail -n 3 $folder/server.log)" >&2
exit 1
