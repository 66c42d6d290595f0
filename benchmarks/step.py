"""One training step: the plain recipe against ours, and ours against the bare student's step, in the same rounds, each
in a process of its own."""

from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional as F

from benchmarks.networks import CLASSES, DATA, PAIRS, Pair, drawn, random_images
from benchmarks.plain import PlainImages, PlainSettings, PlainTraining, augmenting, training_loader
from benchmarks.report import Row, device, milliseconds, native_bfloat16
from benchmarks.run import main
from benchmarks.timing import ROUNDS, Apart, interleaved_apart, one_thread, settled
from trainables.config import RRD, TeacherConfig, TrialConfig
from trainables.data.batches import Batches
from trainables.data.image_file import Images
from trainables.distiller import Distiller
from trainables.loop import Teacher, Training, autocast, on_device
from trainables.places import Places
from trainables.sgd import SGD
from trainables.teacher import LiveTeacher
from trainables.teacher_table import TeacherTable

IMAGES = 256
EPOCHS = 2
BATCH_SIZE = 64
STEPS = 2  # a turn
PRECISIONS = ("float32", "bfloat16")
FASTER = {"float32": (3.5, 2.2, 2.4, 2.0), "bfloat16": (7.0, 3.5, 4.0, 3.6)}  # than the plain step, by pair
NEARNESS = {"float32": (0.95,) * 4, "bfloat16": (0.90, 0.84, 0.92, 0.86)}  # to the bare student's step


def rows(rounds: int = ROUNDS) -> list[Row]:
    precisions = PRECISIONS if native_bfloat16() else PRECISIONS[:1]
    return [row for number, pair in enumerate(PAIRS) for row in _rows_of(pair, number, precisions, rounds)]


def _rows_of(pair: Pair, number: int, precisions: tuple[str, ...], rounds: int) -> list[Row]:
    images = random_images(IMAGES)
    contestants = {"plain": Apart(one_thread, _plain, pair, images)}
    for precision in precisions:
        config = _config(pair, precision)
        contestants[precision] = Apart(settled, _here, config, images)
        contestants[f"bare {precision}"] = Apart(settled, _bare, config, images)
    timings = interleaved_apart(contestants, rounds)
    made = []
    for precision in precisions:
        plain, here, bare = (milliseconds(timings.median(n) / STEPS) for n in ("plain", precision, f"bare {precision}"))
        case = f"{pair}, {precision}"
        faster, nearness = timings.ratio("plain", precision), timings.ratio(f"bare {precision}", precision)
        target, near = FASTER[precision][number], NEARNESS[precision][number]
        made += [
            Row(what="training step", case=case, plain=plain, here=here, ratio=faster, target=target),
            Row(what="bare student's step / ours", case=case, plain=bare, here=here, ratio=nearness, target=near),
        ]
    return made


def _config(pair: Pair, precision: str) -> TrialConfig:
    """The settings of the plain side."""
    plain = PlainSettings()
    return TrialConfig(
        data=DATA,
        teacher=TeacherConfig(architecture=pair.teacher),
        student=pair.student,
        loss=RRD.Config(
            student_temperature=plain.student_temperature,
            teacher_temperature=plain.teacher_temperature,
            queue_size=plain.queue_size,
            projection_dim=plain.projection_dim,
            enqueue="before",
        ),
        batch_size=BATCH_SIZE,
        precision=precision,  # type: ignore[arg-type]
    )


def _plain(pair: Pair, images: Images) -> Callable[[], object]:
    pictures = PlainImages(images.images, images.labels, augmenting(images.mean, images.std))
    batches = (batch for _ in cycle([0]) for batch in training_loader(pictures, BATCH_SIZE))  # epoch after epoch
    training = PlainTraining(pair.student, drawn(pair.teacher), CLASSES, PlainSettings(), device())
    return lambda: training.train_epoch(islice(batches, STEPS))


def _here(config: TrialConfig, images: Images) -> Callable[[], object]:
    """With the teacher's rows of the epochs in their files already, as every trial but a search's first finds them."""
    training = Training(config, Distiller(config, CLASSES), device())
    batches = Batches(images, config.data, device=device())
    teachers = _tabulated(config, batches)
    epochs = cycle(teachers)

    def steps() -> None:
        epoch = next(epochs)
        training.train_epoch(islice(batches.epoch(epoch, BATCH_SIZE), STEPS), teachers[epoch])

    return steps


def _tabulated(config: TrialConfig, batches: Batches) -> dict[int, Teacher]:
    """What the table of a drawn teacher serves, by epoch."""
    live = LiveTeacher(drawn(config.teacher.architecture), config.precision, device())
    with TemporaryDirectory() as folder:  # the mapped files outlive their names
        places = Places(storage=Path(folder), data_root=Path(folder))
        table = TeacherTable(config, live, batches, places)
        return {epoch: table.epoch(epoch, EPOCHS) for epoch in range(1, EPOCHS + 1)}


def _bare(config: TrialConfig, images: Images) -> Callable[[], object]:
    """Forward, cross-entropy, backward and update of the student alone, always on the same batch."""
    student = on_device(drawn(config.student), device())
    optimizer = SGD(config.optimizer, student.parameters())
    batch = next(Batches(images, config.data, device=device()).epoch(1, BATCH_SIZE))
    pictures = batch.images.contiguous(memory_format=torch.channels_last)

    def steps() -> None:
        for _ in range(STEPS):
            with autocast(config.precision, device()):
                loss = F.cross_entropy(student(pictures).logits, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


if __name__ == "__main__":
    main(rows)
