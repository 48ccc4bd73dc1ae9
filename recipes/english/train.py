"""Train on English: `python recipes/english/train.py [key=value ...]` (conf/english.yaml).

Run prepare.py first. After an interruption, the same command resumes the training.
"""

from asr.recipe import Experiment, recipe
from asr.training.config import Outcome


@recipe(__file__, "english")
def main(experiment: Experiment) -> Outcome:
    return experiment.train()


if __name__ == "__main__":
    main()
