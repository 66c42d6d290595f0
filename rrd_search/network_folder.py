"""Which folders lie on file systems that other machines share: SQLite is not safe there."""

from pathlib import Path

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p"} | {
    f"fuse.{name}" for name in ("sshfs", "glusterfs", "ceph", "cephfs", "juicefs", "s3fs", "gcsfuse", "mfs")
}  # kinds of file systems


def on_network(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether it lies on a file system that other machines share; ``mounts`` as Linux tells them (proc(5))."""
    if not mounts.is_file():
        return False
    kind_of = {}
    for line in mounts.read_text().splitlines():
        there, _, what = line.partition(" - ")
        kind_of[there.split()[4].replace("\\040", " ")] = what.split()[0]
    kinds = (kind_of[str(folder)] for folder in (path.resolve(), *path.resolve().parents) if str(folder) in kind_of)
    return next(kinds, "") in NETWORK
