"""What all tests share. Its being here puts this folder on the import path, so that tests find `real_formats`."""

import os

# Whatever the machine offers: tests start their own Ray, and keep and record in their own folders.
os.environ["RAY_ADDRESS"] = "local"
for name in ("RRD_STORAGE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)
