#!/usr/bin/env bash
# Makes a host a node: bash node.sh STORAGE, a folder or URI that all nodes reach. Run again, it changes nothing.
# The project lies in ~/rrd_search and Ray's token in ~/.ray/auth_token: `ray up` has put them there.
set -euo pipefail
storage=${1:?"usage: node.sh STORAGE"}
case $storage in
    *BUCKET*) echo "node.sh: $storage: BUCKET must be the name of your bucket" >&2; exit 2 ;;
    file:///?*)
        if [ ! -w "${storage#file://}" ]; then
            echo "node.sh: $storage cannot be written on $(hostname): is the shared folder mounted?" >&2
            exit 2
        fi ;;
    s3://?* | gs://?* | gcs://?* | abfs://?* | abfss://?* | hdfs://?*) ;;
    *) echo "node.sh: $storage: must be s3://BUCKET/FOLDER, or file:///FOLDER where all nodes share it" >&2; exit 2 ;;
esac
if [ ! -s ~/.ray/auth_token ]; then
    echo "node.sh: ~/.ray/auth_token is missing; make one where you run ray up: ray get-auth-token --generate" >&2
    exit 2
fi
chmod 700 ~/.ray
chmod 600 ~/.ray/auth_token

# Ray's commands on a node and your own shells read ~/.bashrc first.
umask 077
cat > ~/.rrd_search <<EOF
export PATH=$HOME/rrd_search/.venv/bin:\$PATH
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export RRD_STORAGE='$storage'
export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
EOF
grep -qxs 'source ~/.rrd_search' ~/.bashrc || echo 'source ~/.rrd_search' >> ~/.bashrc

packages=()
python3 -c 'import ensurepip' 2> /dev/null || packages+=(python3-venv)
for program in make tmux; do
    command -v $program > /dev/null || packages+=($program)
done
if [ ${#packages[@]} -gt 0 ]; then
    wait=(-o DPkg::Lock::Timeout=300)  # a machine that has just booted installs things of its own
    if command -v cloud-init > /dev/null; then cloud-init status --wait > /dev/null || true; fi
    sudo apt-get "${wait[@]}" update -qq
    sudo apt-get "${wait[@]}" install -y -qq --no-install-recommends "${packages[@]}"
fi
make -C ~/rrd_search install EXTRAS=aws
