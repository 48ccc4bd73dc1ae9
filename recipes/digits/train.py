"""Train on the synthetic digits corpus: `python recipes/digits/train.py [key=value ...]`.

Run prepare.py first. Whatever interrupts it, the same command goes on where it stopped.
"""

from asr.recipe import Experiment, recipe
from asr.training.config import Outcome


@recipe(__file__, "digits")
def main(experiment: Experiment) -> Outcome:
    return experiment.train()


if __name__ == "__main__":
    main()
