"""What is wrong with files for a cluster: small edits of the shipped ones and files of no kind, each with what is to be
said of it, as a pattern."""

from dataclasses import dataclass

AWS, OWN, KUBERAY, SLURM = "cluster.yaml", "cluster/on_prem.yaml", "cluster/kuberay.yaml", "cluster/slurm.sh"


@dataclass(frozen=True)
class Broken:
    """A shipped file with ``old`` replaced by ``new``, wherever it is, and what is said of it."""

    file: str
    old: str
    new: str
    said: str


SPOT = r"available_node_types\.gpu_spot\.node_config\."
HEAD = r"available_node_types\.head\.node_config\."
POD = r"RayJob\.spec\.rayClusterSpec\.workerGroupSpecs\[0\]\.template\.spec\."
CASES = {
    # the shape of a file for `ray up`
    "no YAML": Broken(AWS, "max_workers: 10 ", "max_workers: [10 ", "line \\d+: no YAML: "),
    "a tab": Broken(AWS, "  type: aws", "\ttype: aws", "line 11: no YAML: found character .*t'"),
    "a field twice": Broken(AWS, "idle_timeout_minutes: 10", "max_workers: 10", "line 8: max_workers is there twice"),
    "a number as a name": Broken(AWS, "labels: {rrd/market: spot}", "labels: {3: spot}", "put 3 in quotes"),
    "unknown field": Broken(AWS, "idle_timeout_minutes", "idle_timeout_minute", "did you mean idle_timeout_minutes?"),
    "unknown provider": Broken(AWS, "type: aws", "type: asw", "provider.type must be aws or local .*did you mean aws?"),
    "no provider": Broken(AWS, "provider:", "providers:", "provider.type must be aws or local .*got nothing"),
    "wrong type": Broken(
        AWS, "max_workers: 10 ", "max_workers: many ", "max_workers must be a whole number, got 'many'"
    ),
    "nothing": Broken(AWS, "head_setup_commands: []", "head_setup_commands:", "must be a list, got nothing"),
    "no ssh user": Broken(OWN, "  ssh_user: ubuntu\n", "", "auth.ssh_user is missing"),
    "min_workers on AWS": Broken(
        AWS, "upscaling_speed: 10 ", "min_workers: 1 ", "min_workers: each of available_node_types has its own"
    ),
    "public half of a key": Broken(OWN, "id_ed25519 ", "id_ed25519.pub ", "id_ed25519.pub is the public half"),
    "port of a host": Broken(OWN, "192.0.2.11,", "'192.0.2.11:2222',", r"worker_ips\[0\]: 192.0.2.11:2222 has a port"),
    "no host": Broken(OWN, "[192.0.2.11, 192.0.2.12]", "[]", "provider.worker_ips is empty"),
    "head on loopback": Broken(OWN, "192.0.2.10", "127.0.0.1", "provider.head_ip: 127.0.0.1 is what every host calls"),
    # what is started on nodes
    "dashboard everywhere": Broken(
        AWS, "dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0", r"head_start_ray_commands\[1\]: 0\.0\.0\.0 opens"
    ),
    "dashboard everywhere, IPv6": Broken(AWS, "dashboard-host=127.0.0.1", "dashboard-host=::", r"\[1\]: :: opens"),
    "dashboard on a network": Broken(
        OWN, "dashboard-host=127.0.0.1", "dashboard-host=192.0.2.10", "--dashboard-host must be 127.0.0.1, .*got 192"
    ),
    "Ray's own dashboard": Broken(AWS, "--dashboard-host=127.0.0.1 ", "", "an explicit --dashboard-host=127.0.0.1"),
    "Ray's own commands": Broken(AWS, "head_start_ray_commands:", "head_setup:", "head_setup: no such field"),
    "option that ray start has not": Broken(
        AWS,
        "--object-store-memory",
        "--object-store-memry",
        "no --object-store-memry; did you mean object-store-memory?",
    ),
    "no autoscaler": Broken(
        AWS, "--autoscaling-config=~/ray_bootstrap_config.yaml", "", "or no worker is ever started"
    ),
    "mlflow everywhere": Broken(
        AWS, "- bash ~/rrd_search/cluster/mlflow.sh", "- mlflow server --host 192.0.2.1", "--host of mlflow must be 127"
    ),
    "mlflow everywhere, in short": Broken(
        AWS, "- bash ~/rrd_search/cluster/mlflow.sh", "- mlflow server -h 192.0.2.1 --port 80", "got 192.0.2.1"
    ),
    "mlflow everywhere, by its environment": Broken(
        AWS, "- ray stop\n", "- MLFLOW_HOST=0.0.0.0:80 mlflow server\n", r"0\.0\.0\.0 opens to every network"
    ),
    "mlflow that runs jobs": Broken(
        AWS,
        "- bash ~/rrd_search/cluster/mlflow.sh",
        "- mlflow server",
        "needs MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
    ),
    # tokens and secrets
    "no token": Broken(
        AWS, "  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "file_mounts: ~/.ray/auth_token is missing"
    ),
    "no set-up": Broken(
        AWS, "- bash ~/rrd_search/cluster/node.sh", "- echo", r"setup_commands: nothing .*run cluster/node\.sh"
    ),
    "set-up without effect": Broken(
        AWS,
        "- bash ~/rrd_search/cluster/node.sh",
        "- export RAY_AUTH_MODE=token; echo",
        "nothing switches Ray's token mode on",
    ),
    "set-up of its own": Broken(
        AWS,
        "  gpu_spot:\n",
        "  gpu_spot:\n    worker_setup_commands: [pip list]\n",
        r"available_node_types\.gpu_spot\.worker_setup_commands: nothing switches Ray's token mode on",
    ),
    "no authentication": Broken(
        OWN, "ray start --head", "RAY_AUTH_MODE=disabled ray start --head", "RAY_AUTH_MODE must be token, got disabled"
    ),
    "key in clear": Broken(
        AWS,
        "  - ray stop\n",
        "  - export AWS_SECRET_ACCESS_KEY=abcd1234\n",
        "the value of AWS_SECRET_ACCESS_KEY: no secrets",
    ),
    "key in a comment": Broken(
        AWS, "# Installs", "# AKIAABCDEFGHIJKLMNOP Installs", r"line \d+ holds an AWS access key"
    ),
    "token in clear": Broken(
        OWN, "  - ray stop\n", "  - echo 0123456789abcdef0123 > ~/.ray/auth_token\n", "holds Ray's token: no secrets"
    ),
    # files of the project
    "script that is not there": Broken(AWS, "cluster/mlflow.sh", "cluster/mlfow.sh", "did you mean mlflow.sh?"),
    "folder that is not there": Broken(
        AWS, ": trainables", ": trainable", "no trainable in .*did you mean trainables?"
    ),
    "part of the project": Broken(OWN, "  ~/rrd_search/Makefile: Makefile\n", "", "~/rrd_search/Makefile is missing"),
    # AWS
    "unknown field of a disk": Broken(
        AWS,
        "VolumeSize: 200",
        "VolumSize: 200",
        rf"{SPOT}BlockDeviceMappings\[0\]\.Ebs\.VolumSize: no such field; did you mean VolumeSize\?",
    ),
    "wrong type of a disk": Broken(
        AWS, "VolumeSize: 100", "VolumeSize: 100G", r"VolumeSize must be a whole number, got '100G'"
    ),
    "wrong kind of a disk": Broken(AWS, "VolumeType: gp3", "VolumeType: pg3", "must be one of .*did you mean gp3?"),
    "no such instance": Broken(
        AWS, "g5.xlarge", "g5.xlrge", r"InstanceType: no such value: .*did you mean g5\.xlarge\?"
    ),
    "disk in clear": Broken(AWS, "Encrypted: true", "Encrypted: false", r"\[0\]\.Ebs\.Encrypted must be true"),
    "no disk": Broken(AWS, "BlockDeviceMappings:", "BlockDeviceMapping:", "did you mean BlockDeviceMappings?"),
    "no image": Broken(AWS, "      ImageId: ", "      KeyName: ", rf"{HEAD}ImageId is missing"),
    "image of no kind": Broken(
        AWS, "ami-0123456789abcdef0", "ubuntu-24.04", r"ImageId: 'ubuntu-24\.04' is no id such as ami-"
    ),
    "Ray's security group": Broken(
        AWS, "      SecurityGroupIds: [", "      SubnetIds: [", r"SubnetIds: 'sg-.*' is no id such as subnet-"
    ),
    "no security group": Broken(AWS, "[sg-0123456789abcdef0]", "[]", rf"{SPOT}SecurityGroupIds is missing; Ray's own"),
    "open security group": Broken(
        AWS,
        "  cache_stopped",
        "  security_group: {IpPermissions: [{IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}\n  cache_stopped",
        r"provider\.security_group\.IpPermissions\[0\]\.IpRanges\[0\]\.CidrIp: 0\.0\.0\.0/0 lets everybody in",
    ),
    "IMDSv1": Broken(AWS, "HttpTokens: required", "HttpTokens: optional", "HttpTokens must be required"),
    "no profile": Broken(
        AWS, "IamInstanceProfile: {Name: rrd-search-head}", "KeyName: k", rf"{HEAD}IamInstanceProfile is"
    ),
    "the head's profile": Broken(
        AWS,
        "rrd-search-worker",
        "rrd-search-head",
        rf"{SPOT}IamInstanceProfile is the head's, which may start instances",
    ),
    "spot head": Broken(
        AWS,
        "InstanceType: m7i.xlarge",
        "InstanceType: m7i.xlarge\n      InstanceMarketOptions: {MarketType: spot}",
        "the head",
    ),
    "stopped nodes": Broken(
        AWS, "cache_stopped_nodes: false", "cache_stopped_nodes: true", "cache_stopped_nodes must be false"
    ),
    "unknown region": Broken(AWS, "region: us-west-2 ", "region: us-wst-2 ", "did you mean us-west-2?"),
    "zone of another region": Broken(AWS, "us-west-2a,", "us-east-1a,", "us-east-1a is not in the region us-west-2"),
    "unknown head": Broken(AWS, "head_node_type: head", "head_node_type: haed", "did you mean head?"),
    "more than the file's": Broken(AWS, "max_workers: 10 ", "max_workers: 4 ", "8 workers are more than max_workers"),
    "least above most": Broken(AWS, "min_workers: 0", "min_workers: 3", "min_workers 3 is more than its max_workers 2"),
    "keys in the file": Broken(AWS, "  type: aws", "  type: aws\n  aws_credentials: {}", "no secrets in this file"),
    # hosts of one's own
    "one worker more": Broken(
        OWN,
        "auth:\n",
        "min_workers: 3\nmax_workers: 1\nauth:\n",
        "min_workers must be 2, .*max_workers must be 2",
    ),
    "worker twice": Broken(OWN, "192.0.2.12]", "192.0.2.11]", r"worker_ips: 192\.0\.2\.11 is there twice"),
    "head as a worker": Broken(
        OWN, "192.0.2.12]", "192.0.2.10]", r"provider\.worker_ips\[1\]: 192\.0\.2\.10 is the head_ip"
    ),
    "another head": Broken(
        OWN, "head_ip: 192.0.2.10", "head_ip: 192.0.2.9", r"must be 192\.0\.2\.9, .*got 192\.0\.2\.10"
    ),
    "no address": Broken(OWN, "192.0.2.12]", "192.0.2.512]", r"192\.0\.2\.512 is no IP address"),
    "no head": Broken(OWN, "head_ip:", "headip:", "headip: no such field; did you mean head_ip?"),
    # Kubernetes
    "unknown kind": Broken(
        KUBERAY, "kind: RayJob", "kind: RayJobs", "'RayJobs' is not known here; did you mean RayJob?"
    ),
    "another version": Broken(KUBERAY, "ray.io/v1\n", "ray.io/v1alpha1\n", "apiVersion must be ray.io/v1, got"),
    "unknown field of a group": Broken(
        KUBERAY,
        "maxReplicas",
        "maxReplica",
        r"workerGroupSpecs\[0\]\.maxReplica: no such field; did you mean maxReplicas\?",
    ),
    "unknown field of a pod": Broken(KUBERAY, "resources:", "resource:", rf"{POD}containers\[0\]\.resource: no such"),
    "missing field": Broken(KUBERAY, "groupName: gpu", "numOfHosts: 1", r"workerGroupSpecs\[0\]\.groupName is missing"),
    "text for a number": Broken(
        KUBERAY, "backoffLimit: 3 ", 'backoffLimit: "3" ', "backoffLimit must be a whole number"
    ),
    "number for a text": Broken(KUBERAY, 'num-cpus: "0"', "num-cpus: 0", "num-cpus must be a text, got 0"),
    "no amount": Broken(KUBERAY, "memory: 14Gi", "memory: 14 GB", "memory must be an amount such as .*got '14 GB'"),
    "no token mode": Broken(KUBERAY, "mode: token", "mode: disabled", "authOptions.mode must be token, got 'disabled'"),
    "Ray before tokens": Broken(KUBERAY, 'rayVersion: "2.60.0"', 'rayVersion: "2.51.0"', "2.52.0 or newer"),
    "no policy": Broken(KUBERAY, "kind: NetworkPolicy", "kind: Role", "NetworkPolicy: .*there is none"),
    "policy for the head": Broken(
        KUBERAY,
        "podSelector:\n    matchExpressions:\n      - {key: ray.io/cluster, operator: Exists}",
        "podSelector:\n    matchLabels: {ray.io/node-type: head}",
        "for all its pods, head and workers",
    ),
    "policy for everybody": Broken(
        KUBERAY, "    - from:\n", "    - {}\n    - from:\n", r"ingress\[0\]\.from is missing"
    ),
    "policy of another job": Broken(
        KUBERAY, "job-name: rrd-search", "job-name: other", "let in the pod that submits the job.*job-name: rrd-search"
    ),
    "image that moves": Broken(
        KUBERAY,
        f"rrd_search@sha256:{64 * '0'}",
        "rrd_search:latest",
        r"containers\[0\]\.image must be pinned by a digest",
    ),
    "dashboard of a pod": Broken(
        KUBERAY, '        num-cpus: "0"', "        dashboard-host: 0.0.0.0", "dashboard-host must not be given"
    ),
    "option of a pod": Broken(KUBERAY, "num-cpus:", "num-cpu:", "num-cpu: no such option .*did you mean num-cpus?"),
    "another program": Broken(
        KUBERAY, "rrd_search.tune", "rrd_search.tun", "entrypoint must call python -m rrd_search.tune"
    ),
    "GPUs": Broken(
        KUBERAY,
        'gpu: "1"}  # EDIT: as',
        'gpu: "2"}  # EDIT: as',
        "nvidia.com/gpu must be the same in limits and in requests",
    ),
    "GPUs of no kind": Broken(KUBERAY, "nvidia.com/gpu", "nvidia.com/gpus", "did you mean nvidia.com/gpu?"),
    "too many replicas": Broken(
        KUBERAY, " replicas: 0", " replicas: 9", "replicas must be from .*0 to maxReplicas 8, got 9"
    ),
    "nobody starts workers": Broken(
        KUBERAY, "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "no worker would ever start"
    ),
    "key of a pod": Broken(
        KUBERAY, "{name: MLFLOW_TRACKING_URI,", "{name: AWS_SECRET_ACCESS_KEY,", "comes with valueFrom.secretKeyRef"
    ),
    "mlflow of a pod": Broken(
        KUBERAY, "--host, 127.0.0.1", "--host, 0.0.0.0", r"containers\[1\]\.command: 0\.0\.0\.0 opens"
    ),
    "published": Broken(
        KUBERAY,
        "    headGroupSpec:\n",
        "    headGroupSpec:\n      serviceType: LoadBalancer\n",
        "serviceType must be ClusterIP",
    ),
    "disk of a pod": Broken(
        KUBERAY, "name: RRD_STORAGE", "name: STORAGE", r"containers\[0\]\.env: RRD_STORAGE is missing"
    ),
    "secret": Broken(KUBERAY, "kind: ServiceAccount", "kind: Secret", "kind: Secret: no secrets in this file"),
    "folder of a pod": Broken(
        KUBERAY, 's3://BUCKET/rrd_search"}', 'rrd_search"}', "RRD_STORAGE: storage must be s3://"
    ),
    # where results are kept
    "no URI": Broken(AWS, "node.sh s3://BUCKET/rrd_search", "node.sh my-bucket", "storage must be .*got my-bucket"),
    "folder of a host": Broken(OWN, "node.sh file://", "node.sh ", r"setup_commands\[0\]: storage must be s3://"),
    "two slashes": Broken(OWN, "node.sh file:///", "node.sh file://", "storage must be .*got file://mnt/rrd_search"),
    "no bucket": Broken(AWS, "s3://BUCKET/", "s3://My_Bucket/", "My_Bucket is no name of a bucket"),
    "cut by the shell": Broken(
        AWS, "s3://BUCKET/rrd_search", "s3://b1b/x?endpoint_override=h:1&scheme=http", "in quotes, or the shell cuts it"
    ),
    # Slurm
    "folder of a node": Broken(SLURM, ":-file://$PWD/runs", ":-$PWD/runs", "RRD_STORAGE: storage must be s3://"),
    "Windows": Broken(SLURM, "\n", "\r\n", "lines end as on Windows"),
    "nobody": Broken(SLURM, "--nodes=2 ", "--nodes=0 ", "--nodes must be a number such as 2, .*got 0"),
    "many tasks": Broken(SLURM, "--ntasks-per-node=1 ", "--ntasks-per-node=4 ", "--ntasks-per-node must be 1: .*got 4"),
    "no bash": Broken(SLURM, "    sleep 2\ndone\n", "    sleep 2\n", "line \\d+: syntax error"),
    "no shebang": Broken(SLURM, "#!/usr/bin/env bash\n", "", "line 1 must be #!/usr/bin/env bash"),
    "unknown option": Broken(
        SLURM, "--gpus-per-node", "--gpu-per-node", "no option --gpu-per-node; did you mean gpus-per-node?"
    ),
    "time of no kind": Broken(SLURM, "--time=24:00:00 ", "--time=1d ", "--time must be minutes, .*got 1d"),
    "time of no kind, short": Broken(SLURM, "--time=24:00:00 ", "-t 1d ", "--time must be minutes, .*got 1d"),
    "time of no kind, apart": Broken(SLURM, "--time=24:00:00 ", "--time 1d ", "--time must be minutes, .*got 1d"),
    "no time": Broken(SLURM, "#SBATCH --time=24:00:00", "#", "#SBATCH --time is missing"),
    "no nodes": Broken(SLURM, "#SBATCH --nodes=2", "#", "#SBATCH --nodes is missing"),
    "option too late": Broken(
        SLURM, "set -euo pipefail\n", "set -eu\n#SBATCH --mem=0\n", "reads no #SBATCH behind the first"
    ),
    "option as a comment": Broken(SLURM, "#SBATCH --output", "# SBATCH --output", "is a comment to Slurm"),
    "no token mode of a job": Broken(SLURM, "RAY_AUTH_MODE=token ", "", "`export RAY_AUTH_MODE=token` is missing"),
    "disk of a node": Broken(SLURM, "export RRD_STORAGE=", "export STORAGE=", "`export RRD_STORAGE=...` is missing"),
    "dashboard of a job": Broken(
        SLURM, "--dashboard-host=127.0.0.1 ", "", "needs an explicit --dashboard-host=127.0.0.1"
    ),
    "mlflow of a job": Broken(
        SLURM, "--host 127.0.0.1", "--host=0.0.0.0", r"line \d+: 0\.0\.0\.0 opens to every network"
    ),
    "mlflow of a job, unsaid": Broken(SLURM, "--host 127.0.0.1", "", "needs an explicit --host 127.0.0.1"),
    "mlflow of a job that runs jobs": Broken(
        SLURM, " MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "", "runs jobs for whoever"
    ),
}
OTHERS = {
    "empty": ("a.yaml", "", "is empty"),
    "comments": ("a.yaml", "# nothing\n", "is empty"),
    "list": ("a.yaml", "- a\n- b\n", r"must be a mapping of fields \(FIELD: VALUE\), got \['a', 'b'\]"),
    "text": ("a.yaml", "just words\n", "must be a mapping"),
    "another kind": ("a.yaml", "services: {}\n", r"of no kind that is known here; checked are .*ray up"),
    "another script": ("a.sh", "#!/bin/sh\nls\n", "a script without #SBATCH lines"),
    "within itself": ("a.yaml", "provider: &a\n  type: *a\n", "line 1: a part that holds itself"),
    "two documents": ("a.yaml", "cluster_name: a\n---\nprovider: {}\n", "`ray up` reads one document"),
    "no text": ("a.yaml", b"\xff\xfe\x00", "is no text file"),
}
