"""python simulated.py FOLDER TRIALS CONCURRENT: the driver of a search whose trials train nothing, on a real Ray, with
the real study and recorder. It goes on where it was killed, and notes in FOLDER/times.jsonl when it was how far."""

import sys
from pathlib import Path
from typing import Any

from simulated_trial import EPOCHS, SimulatedTrial, note

from benchmarks.simulated import SHOWN
from benchmarks.small_search import SmallSearch
from rrd_search.search import SearchRun
from rrd_search.space import load_space

NAME = "small"  # as the benchmarks call theirs


class Run(SearchRun):
    """Notes how far it is."""

    def __init__(self, *parts: Any) -> None:
        note(parts[0].folder, "ray is ready")
        super().__init__(*parts)
        note(parts[0].folder, "study is read")
        self._asked = False

    def next(self, tune_id: str) -> Any:
        if not self._asked:
            note(self.plan.folder, "tune asks")
        self._asked = True
        return super().next(tune_id)

    def _tune_config(self, proposal: Any) -> dict[str, Any]:
        value = 0.7 - abs(proposal.config.flat()["loss.student_temperature"] - 0.1)
        return super()._tune_config(proposal) | {"shown": SHOWN, "value": value}


def main() -> None:
    folder, trials, concurrent = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    note(folder, "start")
    space = load_space("rrd").with_values({"epochs": EPOCHS})
    search = SmallSearch(folder=folder, space=space, trials=trials, concurrent=concurrent, sampler="random")
    print(search.run(Run, SimulatedTrial))


if __name__ == "__main__":
    main()
