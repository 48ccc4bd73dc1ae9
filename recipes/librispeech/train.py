"""Train on LibriSpeech: `python recipes/librispeech/train.py [key=value ...]` (conf/librispeech.yaml).

Run prepare.py first. Whatever interrupts it, the same command goes on where it stopped.
"""

from asr.recipe import Experiment, recipe
from asr.training.config import Outcome


@recipe(__file__, "librispeech")
def main(experiment: Experiment) -> Outcome:
    return experiment.train()


if __name__ == "__main__":
    main()
