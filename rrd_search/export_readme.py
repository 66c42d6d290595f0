"""The README.md of an exported folder: how its student is loaded, with torch alone and with trainables."""

from typing import Any

from trainables.config import TrialConfig

TEXT = """\
# {student} for {dataset}: {accuracy} on the held-out images

The student of trial {trial} of the search {search}, taught by {teacher}. The accuracy is that of the last epoch, on
{held_out} held-out training images; the test images were not looked at.

With torch alone, from raw pixels (`images`: uint8 [B, 3, {size}, {size}], red, green, blue; any B):

```python
import torch
student = torch.export.load("student.pt2").module()
logits = student(images)  # [B, {classes}]
```

With `trainables` of the package rrd-search, from normalised pixels (pixels / 255, then minus `mean`, divided by `std`,
as in `metrics.json`):

```python
from pathlib import Path
from trainables.weights import load_network
student = load_network(Path("student.safetensors"), "{student}", num_classes={classes}).eval()
```

It says `Outputs`: `student(normalised).logits` is [B, {classes}].

`python -m rrd_search.train FOLDER`, with the path of this folder, trains the configuration finally: on all training
images, with several seeds, and measures it on the test images.

| file | what it holds |
|---|---|
| `config.yaml` | the configuration |
| `student.pt2` | normalisation and student for `torch.export.load`, in float32 |
| `student.safetensors` | the student's weights after the last epoch |
{teacher_row}| `metrics.json` | what was measured, epoch by epoch; the classes; the normalisation |
| `provenance.yaml` | which data, split and teacher it came from, and the SHA-256 of each file |
| `versions.yaml` | the versions of what it was exported with |
"""
TEACHER_ROW = "| `teacher.safetensors` | the teacher's weights |\n"


def readme(config: TrialConfig, facts: dict[str, Any], held_out: int, has_teacher: bool) -> str:
    """``facts`` are those of ``metrics.json``, ``held_out`` is the number of held-out images."""
    return TEXT.format(
        student=config.student,
        dataset=config.data.name.split("/")[-1],
        accuracy=f"{100 * facts['val_accuracy']:.2f} %",
        trial=facts["trial_id"],
        search=facts["search"],
        teacher=config.teacher.architecture if has_teacher else "no teacher",
        held_out=held_out,
        size=config.data.image_size,
        classes=len(facts["classes"]),
        teacher_row=TEACHER_ROW if has_teacher else "",
    )
