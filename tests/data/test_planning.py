"""Plans: batches of limited length, as a pure function of seed, epoch and utterances."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr.data.augment import AugmentConfig
from asr.data.planning import EpochPlan, Planner, mix, shard
from asr.errors import ConfigError, DataError

SPEEDS = AugmentConfig(speeds=[0.9, 1.0, 1.1])
ALL = AugmentConfig(speeds=[0.9, 1.0, 1.1], silence_seconds=1.0, tempo=0.15)

PLANS = st.fixed_dictionaries(
    {
        "seconds": st.lists(st.floats(0.05, 40.0), min_size=1, max_size=200),
        "batch_seconds": st.floats(1.0, 200.0),
        "augment": st.builds(
            AugmentConfig,
            speeds=st.sampled_from([[1.0], [0.9, 1.0, 1.1], [0.5, 2.0]]),
            silence_seconds=st.sampled_from([0.0, 0.2, 10.0]),
            tempo=st.sampled_from([0.0, 0.15, 0.9]),
        ),
        "seed": st.integers(-(2**63), 2**64),
        "max_utterances": st.sampled_from([None, 1, 7]),
    }
)


def make_planner(seconds: list[float], **options: object) -> Planner:
    return Planner(seconds, [f"u{i}" for i in range(len(seconds))], **options)  # type: ignore[arg-type]


def parts(plan: EpochPlan) -> list[np.ndarray]:
    return [plan.seconds, plan.speeds, plan.before, plan.after, plan.tempos]


NEARLY_EQUAL = {"seconds": [10 + i / 1e4 for i in range(99)], "batch_seconds": 100.05}


@given(PLANS, st.integers(0, 10**6))
@example({**NEARLY_EQUAL, "augment": None, "seed": 0, "max_utterances": None}, 0)
@settings(deadline=None, max_examples=200)
def test_an_epoch_uses_every_utterance_once_within_the_limits(
    options: dict[str, object], epoch: int
) -> None:
    plan = make_planner(**options).epoch(epoch)
    seconds = plan.seconds
    assert sorted(np.concatenate(plan.batches).tolist()) == list(range(len(options["seconds"])))
    for batch in plan.batches:
        assert len(batch) == 1 or len(batch) * seconds[batch[0]] <= options["batch_seconds"] + 1e-9
        assert len(batch) <= (options["max_utterances"] or len(seconds))
        assert (np.diff(seconds[batch]) <= 0).all()


@given(PLANS, st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_a_plan_is_a_pure_function_of_seed_and_epoch(
    options: dict[str, object], epoch: int
) -> None:
    used = make_planner(**options)
    used.epoch(epoch + 1)
    first, second = used.epoch(epoch), make_planner(**options).epoch(epoch)
    assert len(first) == len(second) == len(first.batches)
    assert all(map(np.array_equal, first.batches, second.batches))
    assert all(map(np.array_equal, parts(first), parts(second)))


@given(PLANS)
@settings(deadline=None, max_examples=50)
def test_seconds_match_the_drawn_timing(options: dict[str, object]) -> None:
    plan, augment = make_planner(**options).epoch(1), options["augment"]
    for index, seconds in enumerate(options["seconds"]):
        speed, before, after, tempo = plan.timing(index)
        assert plan.seconds[index] == pytest.approx((seconds / speed + before + after) / tempo)
        assert speed in augment.speeds
        assert 0 <= min(before, after) <= max(before, after) <= augment.silence_seconds
        assert 1 - augment.tempo <= tempo <= 1 + augment.tempo
    unchanged = make_planner(**options | {"augment": None}).epoch(1)
    assert unchanged.seconds.tolist() == options["seconds"]


def test_a_plan_is_the_same_on_every_machine() -> None:
    """Literal values: another process, numpy or platform that differs breaks resuming."""
    assert mix(np.uint64(0)) == 0xE220A8397B1DCDAF  # published for splitmix64
    lengths = [3.0, 1.0, 2.0, 5.0, 4.0, 1.5, 2.5]
    plan = make_planner(lengths, batch_seconds=6.0, augment=SPEEDS, seed=17).epoch(3)
    assert [batch.tolist() for batch in plan.batches] == [[0], [6, 2], [5, 1], [4], [3]]
    assert plan.speeds.tolist() == [0.9, 1.0, 1.0, 1.1, 1.1, 1.0, 1.0]
    plan = make_planner(lengths, batch_seconds=6.0, augment=ALL, seed=17).epoch(3)
    assert [batch.tolist() for batch in plan.batches] == [[6], [4], [1, 5], [3], [0], [2]]
    assert plan.timing(5) == (1.0, 0.26771460802608704, 0.6514499746025849, 1.079260997925344)
    assert plan.timing(3) == (1.1, 0.0, 0.0, 1.082819925908761)


def test_timings_are_uniform_and_independent_of_other_utterances() -> None:
    seconds = np.random.default_rng(0).uniform(1, 20, 3000)
    ids = [f"u{i}" for i in range(3000)]
    plan = Planner(seconds, ids, 100, ALL, seed=1).epoch(2)
    fewer = Planner(seconds[::-2], ids[::-2], 50, ALL, seed=1).epoch(2)
    for part, same in zip(parts(plan), parts(fewer), strict=True):
        assert np.array_equal(same, part[::-2])
    for seed, epoch in [(1, 3), (2, 2)]:
        other = Planner(seconds, ids, 100, ALL, seed).epoch(epoch)
        assert 0.28 < (other.speeds == plan.speeds).mean() < 0.38
        for part, drawn in zip(parts(plan)[2:], parts(other)[2:], strict=True):
            assert abs(np.corrcoef(part, drawn)[0, 1]) < 0.06
    assert all(900 < count < 1100 for count in Counter(plan.speeds.tolist()).values())


def test_half_of_the_utterances_get_silence_and_draws_are_independent() -> None:
    plan = Planner([2.0] * 4000, map(str, range(4000)), 100, ALL, seed=1).epoch(0)
    surrounded = plan.before > 0
    assert np.array_equal(surrounded, plan.after > 0)
    assert 0.46 < surrounded.mean() < 0.54
    tenths = (1 - (plan.tempos / 1.15)) / (1 - 0.85 / 1.15) * 10  # 0 at the highest tempo
    for values in (10 * plan.before[surrounded], 10 * plan.after[surrounded], tenths):
        counts = np.bincount(np.minimum(values.astype(int), 9), minlength=10) / len(values)
        assert counts.min() > 0.07
        assert counts.max() < 0.13
    drawn = np.stack([p[surrounded] for p in (plan.speeds, plan.before, plan.after, plan.tempos)])
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.08


@pytest.mark.parametrize("augment", [ALL, SPEEDS, None])
@pytest.mark.parametrize("batch_seconds", [60, 400])
def test_librispeech_has_little_padding_and_new_batches_each_epoch(
    augment: AugmentConfig | None, batch_seconds: float
) -> None:
    generator = np.random.default_rng(0)
    size = 281_241  # the utterances of the 960 hours: most last 12 to 16 s, the others are shorter
    long = generator.random(size) < 0.75
    seconds = np.where(long, generator.normal(14.5, 1.3, size), generator.uniform(1.5, 14, size))
    seconds = seconds.clip(1.3, 24.5)
    marks = generator.integers(
        0, 2**64, size, dtype=np.uint64
    )  # their sum identifies a set of utterances
    planner = Planner(seconds, map(str, range(size)), batch_seconds, augment)
    seen: set[int] = set()
    for epoch in range(3):
        plan = planner.epoch(epoch)
        order = np.concatenate(plan.batches)
        sizes = np.array([len(batch) for batch in plan.batches])
        starts = np.cumsum(sizes) - sizes
        played = plan.seconds[order]
        padded = sizes @ np.maximum.reduceat(played, starts)
        assert played.sum() / padded >= 0.98
        assert np.array_equal(np.sort(order), np.arange(size))
        batches = set(np.add.reduceat(marks[order], starts).tolist())
        assert len(seen & batches) / len(batches) < 0.01
        seen |= batches


def test_batches_are_not_ordered_by_length() -> None:
    seconds = np.random.default_rng(0).uniform(1, 20, 5000)
    plan = make_planner(seconds.tolist(), batch_seconds=100).epoch(0)
    longest = [seconds[batch[0]] for batch in plan.batches]
    assert abs(np.corrcoef(longest, np.arange(len(plan)))[0, 1]) < 0.15


@given(st.lists(st.integers(0, 10**6), max_size=50, unique=True), st.integers(1, 9))
def test_shards_divide_a_batch(indices: list[int], processes: int) -> None:
    batch = np.array(indices, dtype=np.int64)
    parts = [shard(batch, rank, processes).tolist() for rank in range(processes)]
    assert sorted(index for part in parts for index in part) == sorted(indices)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_are_equal_work() -> None:
    seconds = np.random.default_rng(0).uniform(1, 20, 5000)
    plan = make_planner(seconds.tolist(), batch_seconds=400).epoch(0)
    for batch in plan.batches:
        longest = [seconds[shard(batch, rank, 4)].max(initial=0) for rank in range(4)]
        assert len(batch) < 10 or min(longest) > 0.95 * max(longest)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(DataError, match="all training utterances were rejected"):
        make_planner([], batch_seconds=10)
    for options in ({"batch_seconds": 0}, {"batch_seconds": 9, "max_utterances": 0}):
        with pytest.raises(ConfigError, match="is empty"):
            make_planner([1.0], **options)
    with pytest.raises(ValueError, match="2 lengths for 1 ids"):
        Planner([1.0, 2.0], ["a"], 10)
