"""Train on your own recordings: `python recipes/folder/train.py [key=value ...]` (conf/folder.yaml).

Run prepare.py first. Whatever interrupts it, the same command goes on where it stopped.
"""

from asr.recipe import Experiment, recipe
from asr.training.config import Outcome


@recipe(__file__, "folder")
def main(experiment: Experiment) -> Outcome:
    return experiment.train()


if __name__ == "__main__":
    main()
