"""Its being here puts this folder on the import path, so that tests in all folders find `real_formats`."""
