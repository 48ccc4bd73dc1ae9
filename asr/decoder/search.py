"""The compiled part of the beam search: reads frames, keeps the best prefixes, traces their words.

`asr.decoder.beam` defines what is maximized. A frame is read in four steps: `_update`,
`_recombine`, `_extend` and `_select`. The caller owns all arrays, so the search can pause between
any two frames.

A prefix is the text of a hypothesis so far. Its probability sums over its alignments, includes the
factors of the language model, the lexicon and hotwords, and is scaled so that the best prefix of
each frame has about 1; `log_scale` accumulates the logarithms of the scales. "Factor" always means
something that a probability is multiplied by.

In compiled code `prefixes[slot]` is a reference: its fields can be read and set.
"""

import math
import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.compiled import compiled, compiled_core
from asr.decoder.hotwords import Hotwords
from asr.decoder.lexicon import record_type
from asr.lm.ngrams import NGrams, query

Records = npt.NDArray[np.void]  # an array of one of the structured types below
Record = Any  # an element of such an array
Integers = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Integer = int | np.int32 | np.int64

# A prefix of the beam: a path into the history, and the probability of its alignments.
PREFIX = record_type(
    p_blank=np.float64,  # probability of the alignments that end in a blank
    p_symbol=np.float64,  # probability of the alignments that end in the last symbol
    next_p_blank=np.float64,  # `p_blank` after the current frame
    next_p_symbol=np.float64,  # `p_symbol` after the current frame
    extension=np.float64,  # factor by which the last symbol extended the parent
    word_factor=np.float64,  # factor for ending the open word; NaN until computed
    hash=np.int64,  # hash of the whole prefix
    parent_hash=np.int64,  # hash of the prefix without its last symbol
    key=np.int64,  # recombination key: equal if all continuations score alike
    open_word=np.int64,  # hash of the word that has not ended; 0 if there is none
    last_word=np.int64,  # hash of the last word that has ended
    earlier_word=np.int64,  # hash of the word before the last one
    first_frame=np.int64,  # first frame of the last symbol
    last_frame=np.int64,  # last frame of the last symbol
    posterior=np.float64,  # if the last symbol is a space: posterior of `earlier_word`
    last_symbol=np.int32,
    lm_state=np.int32,  # language model state at the beginning of the open word
    next_lm_state=np.int32,  # language model state after the open word
    lexicon_node=np.int32,  # node of the open word; -1 if it has left the lexicon
    hotword_state=np.int32,  # state of the hotword automaton
    parent_node=np.int32,  # history node of the prefix without its last symbol
    own_node=np.int32,  # history node of the whole prefix; -1 if not yet written
    source=np.int32,  # slot of the parent if most probability now comes from it, or -1
)
# An extension of a prefix by one symbol in the current frame.
_CANDIDATE = record_type(
    extension=np.float64, parent_slot=np.int32, symbol=np.int32, lexicon_node=np.int32
)
# One symbol of a prefix that is or was in the beam; node 0 is the empty prefix.
HISTORY = record_type(
    first_frame=np.int64,
    last_frame=np.int64,
    posterior=np.float64,
    parent=np.int32,
    symbol=np.int32,
)
# The final result of a prefix if the utterance ends now.
FINAL = record_type(
    probability=np.float64,
    hash=np.int64,
    last_word=np.int64,
    earlier_word=np.int64,
    last_posterior=np.float64,
    earlier_posterior=np.float64,
    slot=np.int64,
    drop=np.int64,  # 1 if the open word is dropped because the lexicon lacks it
)
PROGRESS = record_type(
    frames=np.int64,  # number of frames read
    log_scale=np.float64,  # log-probability that a scaled probability of 1 stands for
    prefixes=np.int64,  # number of active prefixes
    free=np.int64,  # number of free slots
    history=np.int64,  # number of history nodes
    silent=np.int64,  # 1 if only the blank was likely in the last frame
    settled=np.int64,  # node of a separator that all prefixes share; 0 if there is none
)
# An entry of a hash table with open addressing; entries of earlier frames are free.
_ENTRY = record_type(key=np.int64, frame=np.int64, slot=np.int64)

_BUCKETS = 256
# Prefixes below it have probability 0. It is the smallest normal float: a training flushes denormal
# numbers, and what it compiles, or decodes, would take a smaller constant for 0.
_LEAST = sys.float_info.min
LIFT = 1e3  # assumed bound on how far a word's factor exceeds its look-ahead charge
EMPTY_HASH = 12345  # hash of the empty prefix; any number but 0


class Rules(NamedTuple):
    """The settings of a `DecoderConfig` in the form that compiled code takes."""

    beam: int
    token_floor: float  # log-probability below which a symbol is not tried
    cutoff: float  # share of the best probability below which a prefix is dropped
    space: int  # symbol of the space; -1 if there is none
    end_word: int  # the language model's id of the end of a sentence
    recombine: bool
    strict: bool
    alpha: float
    word_bonus: float  # exp(beta)
    unknown_log_prob: float  # unigram log-probability of the unknown word
    first_node: int  # lexicon node at the beginning of a word; -1 without a lexicon
    hot: bool  # whether there are hotwords
    boost: float  # largest factor of any symbol but the space
    lift: float  # largest factor of the space
    small: bool  # whether the lexicon's bit masks can be used


class Scorer(NamedTuple):
    """Everything that scores prefixes besides the frames; constant during a search."""

    rules: Rules
    lexicon: Records  # (N,) asr.decoder.lexicon.NODE
    ngrams: NGrams
    hotwords: Hotwords


class Beam(NamedTuple):
    """The state of a search between two frames; S slots hold the prefixes of two frames."""

    prefixes: Records  # (S,) PREFIX
    active: Integers  # (beam,) slots of the active prefixes
    free: Integers  # (S,) stack of free slots
    history: Records  # (n,) HISTORY
    progress: Records  # (1,) PROGRESS


@compiled_core
def _mix(hash: Integer, value: Integer) -> np.int64:
    hash = (hash ^ (np.int64(value) + np.int64(0x51ED27))) * np.int64(-7046029254386353131)
    hash = (hash ^ (hash >> np.int64(29))) * np.int64(-4658895280553007687)
    return hash ^ (hash >> np.int64(32))


@compiled_core
def _bucket(value: float, best: float) -> int:
    """The bucket of a value: one per eighth of an octave below `best`, up to the last bucket.

    Positive floats keep their order when their bits are read as integers: exponent, then mantissa.
    """
    distance = np.float64(best).view(np.int64) - np.float64(value).view(np.int64)
    return min(int(distance >> 49), _BUCKETS - 1)


@compiled_core
def _find_threshold(
    probabilities: Floats, count: int, floor: float, best: float, keep: int,
    buckets: Integers, ties: Floats,
) -> float:  # fmt: skip
    """The threshold that at most `keep` of the first `count` probabilities reach, apart from ties.

    Probabilities are counted in buckets; only the bucket that holds the threshold is sorted.
    """
    buckets[:] = 0
    above = 0
    for i in range(count):
        if probabilities[i] >= floor:
            buckets[_bucket(probabilities[i], best)] += 1
            above += 1
    if above <= keep:
        return floor
    bucket = 0
    while buckets[bucket] < keep:
        keep -= buckets[bucket]
        bucket += 1
    found = 0
    for i in range(count):
        if probabilities[i] >= floor and _bucket(probabilities[i], best) == bucket:
            ties[found] = probabilities[i]
            found += 1
    for i in range(keep):  # selection sort, as far as needed
        for j in range(i + 1, found):
            if ties[j] > ties[i]:
                ties[i], ties[j] = ties[j], ties[i]
    return float(ties[keep - 1])


@compiled_core
def _find(table: Records, frame: int, key: int) -> int:
    """The index in a hash table where the frame's entry for `key` is, or would be inserted."""
    index = key & (len(table) - 1)
    while table[index].frame == frame and table[index].key != key:
        index = (index + 1) & (len(table) - 1)
    return index


@compiled_core
def _child(lexicon: Records, small: bool, node: int, symbol: int) -> int:
    """The lexicon's node one symbol below `node`, or -1."""
    first = lexicon[node].first_child
    if small:
        mask = lexicon[node].mask
        if not (mask >> symbol) & 1:
            return -1
        below = mask & ((np.int64(1) << symbol) - 1)  # one bit for each smaller sibling
        below = below - ((below >> 1) & np.int64(0x5555555555555555))
        pairs = np.int64(0x3333333333333333)
        below = (below & pairs) + ((below >> 2) & pairs)
        below = (below + (below >> 4)) & np.int64(0x0F0F0F0F0F0F0F0F)
        return int(first + ((below * np.int64(0x0101010101010101)) >> 56))
    low, end = first, first + lexicon[node].children
    high = end
    while low < high:
        middle = (low + high) >> 1
        if lexicon[middle].symbol < symbol:
            low = middle + 1
        else:
            high = middle
    return int(low) if low < end and lexicon[low].symbol == symbol else -1


@compiled_core
def _score_open_word(prefix: Record, rules: Rules, lexicon: Records, ngrams: NGrams) -> None:
    """Set the factor for ending the open word, and the language model's state after it."""
    node = prefix.lexicon_node
    word = lexicon[node].word if node > 0 else np.int32(-1)
    if word < 0 and rules.strict:
        prefix.word_factor = 0.0
        prefix.next_lm_state = 0
        return
    log_prob, state = query(ngrams, np.int64(prefix.lm_state), np.int64(max(word, 0)))
    prefix.next_lm_state = state
    if word >= 0:
        factor = math.exp(rules.alpha * log_prob - lexicon[node].ahead)
    else:
        factor = math.exp(rules.alpha * (log_prob - rules.unknown_log_prob))
        if node > 0:
            factor *= lexicon[node].leave
    prefix.word_factor = factor * rules.word_bonus


@compiled_core
def _inflow(prefix: Record, parent: Record) -> float:
    """The probability that would flow from the parent if the prefix's last symbol were certain."""
    if parent.last_symbol == prefix.last_symbol:
        available = parent.p_blank
    else:
        available = parent.p_blank + parent.p_symbol
    return float(available * prefix.extension)


@compiled_core
def _fill_table(
    prefixes: Records, active: Integers, count: int, frame: int, table: Records
) -> None:
    """Enter the slots of the prefixes into a hash table."""
    for a in range(count):
        slot = active[a]
        entry = table[_find(table, frame, prefixes[slot].hash)]
        entry.key, entry.frame, entry.slot = prefixes[slot].hash, frame, slot


@compiled_core
def _update(
    prefixes: Records, active: Integers, count: int, symbol_probs: Floats, positions: Integers,
    space: int, frame: int, by_hash: Records, taken: Longs, probabilities: Floats,
) -> tuple[float, float, bool]:  # fmt: skip
    """Compute the probabilities of the prefixes after the frame, if no symbol extends them.

    The frame then holds a blank, a repeat of the last symbol, or the last symbol itself, coming
    from the parent. Returns the highest and the lowest probability, and whether `by_hash` is
    filled.
    """
    filled = False
    best, worst = 0.0, np.inf
    for a in range(count):
        prefix = prefixes[active[a]]
        symbol = prefix.last_symbol
        prob = symbol_probs[symbol]
        total = prefix.p_blank + prefix.p_symbol
        prefix.next_p_blank = total * symbol_probs[0]
        # Consecutive spaces are one, with or without blanks between them.
        stays = (total if symbol == space else prefix.p_symbol) * prob
        prefix.source = -1
        if prob > 0.0:
            if not filled:
                _fill_table(prefixes, active, count, frame, by_hash)
                filled = True
            entry = by_hash[_find(by_hash, frame, prefix.parent_hash)]
            if entry.frame == frame:
                parent = prefixes[entry.slot]
                taken[entry.slot, positions[symbol]] = frame
                arrives = _inflow(prefix, parent) * prob
                if arrives > prefix.next_p_blank + stays:
                    prefix.source = entry.slot
                stays += arrives
        prefix.next_p_symbol = stays
        probability = prefix.next_p_blank + stays
        probabilities[a] = probability
        best = max(best, probability)
        worst = min(worst, probability)
    return best, worst, filled


@compiled_core
def _recombine(
    prefixes: Records, active: Integers, count: int, frame: int, by_hash: Records,
    by_key: Records, filled: bool, probabilities: Floats,
) -> int:  # fmt: skip
    """Drop prefixes that cannot overtake a better prefix with the same recombination key.

    Continuations multiply the probabilities of both alike, so only what still flows in from its
    parent could bring the less probable one ahead. Dropped prefixes get the probability -1.
    Returns their number.
    """
    dropped = 0
    for a in range(count):
        key = prefixes[active[a]].key
        entry = by_key[_find(by_key, frame, key)]
        if entry.frame != frame:
            entry.key, entry.frame, entry.slot = key, frame, a
            continue
        ahead, behind = entry.slot, a
        if probabilities[behind] > probabilities[ahead]:
            ahead, behind = behind, ahead
        entry.slot = ahead
        if not filled:
            _fill_table(prefixes, active, count, frame, by_hash)
            filled = True
        prefix = prefixes[active[behind]]
        reachable = probabilities[behind]
        parent = by_hash[_find(by_hash, frame, prefix.parent_hash)]
        if parent.frame == frame:
            reachable += _inflow(prefix, prefixes[parent.slot])
        if reachable <= probabilities[ahead]:
            probabilities[behind] = -1.0
            dropped += 1
    return dropped


@compiled_core
def _extend(
    prefixes: Records, active: Integers, count: int, tokens: Integers, symbol_probs: Floats,
    top: float, frame: int, taken: Longs, candidates: Records, probabilities: Floats, best: float,
    least: float, rules: Rules, lexicon: Records, ngrams: NGrams, move: Integers, column: Integers,
    factors: Floats,
) -> tuple[int, float]:  # fmt: skip
    """Make candidates of all prefixes and likely symbols whose probability is at least `least`.

    `top` is an upper bound on the factor that any symbol contributes. The candidates' probabilities
    follow those of the active prefixes. Returns the number of candidates and the highest probability.
    """
    floor = max(best * rules.cutoff, least, _LEAST)
    made = 0
    for a in range(count):
        slot = active[a]
        prefix = prefixes[slot]
        total = prefix.p_blank + prefix.p_symbol
        if total * top < floor or probabilities[a] < 0.0:
            continue
        for k in range(len(tokens)):
            symbol = tokens[k]
            available = prefix.p_blank if symbol == prefix.last_symbol else total
            probability = available * symbol_probs[symbol]
            most = rules.lift if symbol == rules.space else rules.boost
            if probability * most < floor or taken[slot, k] == frame:
                continue
            factor, node = 1.0, -1
            if symbol == rules.space:
                if prefix.open_word == 0:
                    continue
                if math.isnan(prefix.word_factor):
                    _score_open_word(prefix, rules, lexicon, ngrams)
                factor = prefix.word_factor
                node = rules.first_node
            elif prefix.lexicon_node >= 0:
                node = _child(lexicon, rules.small, prefix.lexicon_node, symbol)
                if node >= 0:
                    factor = lexicon[node].enter
                elif rules.strict:
                    continue
                else:
                    factor = lexicon[prefix.lexicon_node].leave
            if rules.hot:
                state = prefix.hotword_state
                next_state = move[state, column[symbol]]
                factor *= factors[state, 1] * factors[next_state, 0]
            probability *= factor
            if probability < floor:
                continue
            if probability > best:
                best = probability
                floor = max(floor, best * rules.cutoff)
            probabilities[count + made] = probability
            candidate = candidates[made]
            candidate.extension, candidate.parent_slot = factor, slot
            candidate.symbol, candidate.lexicon_node = symbol, node
            made += 1
    return made, best


@compiled_core
def _write_history(prefix: Record, history: Records, progress: Record) -> int:
    """The history node of the prefix, written if it does not exist yet."""
    if prefix.own_node < 0:
        prefix.own_node = progress.history
        node = history[progress.history]
        node.parent, node.symbol = prefix.parent_node, prefix.last_symbol
        node.posterior = prefix.posterior
        node.first_frame, node.last_frame = prefix.first_frame, prefix.last_frame
        progress.history += 1
    return int(prefix.own_node)


@compiled_core
def _posterior_of(word: int, prefixes: Records, active: Integers, count: int) -> float:
    """The share of the probability in which one of the last two complete words is `word`."""
    agreeing, total = 0.0, 0.0
    for a in range(count):
        prefix = prefixes[active[a]]
        probability = prefix.p_blank + prefix.p_symbol
        total += probability
        if prefix.last_word == word or prefix.earlier_word == word:
            agreeing += probability
    return agreeing / total


@compiled_core
def _begin_prefix(
    prefix: Record, parent: Record, candidate: Record, history: Records, progress: Record,
    rules: Rules, move: Integers, column: Integers,
) -> None:  # fmt: skip
    """Fill in the prefix that a candidate describes."""
    symbol = candidate.symbol
    prefix.p_blank, prefix.last_symbol = 0.0, symbol
    prefix.hash, prefix.parent_hash = _mix(parent.hash, symbol), parent.hash
    prefix.lexicon_node, prefix.extension = candidate.lexicon_node, candidate.extension
    prefix.word_factor = np.nan
    prefix.hotword_state = move[parent.hotword_state, column[symbol]] if rules.hot else 0
    prefix.parent_node, prefix.own_node = _write_history(parent, history, progress), -1
    prefix.first_frame = prefix.last_frame = progress.frames
    if symbol == rules.space:
        prefix.lm_state = parent.next_lm_state
        prefix.key = _mix(_mix(prefix.lm_state, 77), prefix.hotword_state)
        prefix.open_word = 0
        prefix.last_word, prefix.earlier_word = parent.open_word, parent.last_word
    else:
        prefix.lm_state = parent.lm_state
        prefix.key = _mix(parent.key, symbol)
        prefix.open_word = _mix(parent.open_word, symbol)
        prefix.last_word, prefix.earlier_word = parent.last_word, parent.earlier_word


@compiled_core
def _select(
    prefixes: Records, active: Integers, free: Integers, progress: Record, history: Records,
    candidates: Records, made: int, probabilities: Floats, buckets: Integers, ties: Floats,
    best: float, rules: Rules, move: Integers, column: Integers,
) -> None:  # fmt: skip
    """Keep the best of the active prefixes and the candidates, scaled by the best probability."""
    count = progress.prefixes
    floor = max(best * rules.cutoff, _LEAST)
    floor = _find_threshold(probabilities, count + made, floor, best, rules.beam, buckets, ties)
    scale = 1.0 / best
    room = rules.beam
    for a in range(count):
        if probabilities[a] >= floor:
            room -= 1
            prefix = prefixes[active[a]]
            if prefix.source >= 0:  # applied below, because others still need the old history
                prefix.source = _write_history(prefixes[prefix.source], history, progress)
    added = 0
    word, share = np.int64(0), -1.0  # cached, because most new words follow the same word
    for k in range(made):
        if probabilities[count + k] >= floor and added < room:
            prefix, candidate = prefixes[free[progress.free - 1 - added]], candidates[k]
            _begin_prefix(
                prefix, prefixes[candidate.parent_slot], candidate, history, progress, rules, move,
                column,
            )  # fmt: skip
            prefix.p_symbol = probabilities[count + k] * scale
            if candidate.symbol == rules.space:
                if share < 0.0 or prefix.earlier_word != word:
                    word = prefix.earlier_word
                    share = _posterior_of(word, prefixes, active, count)
                prefix.posterior = share
            added += 1
    # The new prefixes are at the end of `free`; freed slots follow them for now.
    progress.free -= added
    new, freed = progress.free, progress.free + added
    staying = 0
    for a in range(count):
        slot = active[a]
        prefix = prefixes[slot]
        if probabilities[a] < floor:
            free[freed] = slot
            freed += 1
            continue
        prefix.p_blank, prefix.p_symbol = prefix.next_p_blank * scale, prefix.next_p_symbol * scale
        if prefix.source >= 0:  # most alignments now begin the last symbol in this frame
            prefix.parent_node, prefix.first_frame = prefix.source, progress.frames
        if prefix.p_symbol >= prefix.p_blank or prefix.source >= 0:
            prefix.last_frame, prefix.own_node = progress.frames, -1
        active[staying] = slot
        staying += 1
    for k in range(added):
        active[staying + k] = free[new + k]
    for k in range(new + added, freed):
        free[k - added] = free[k]
    progress.free = freed - added
    progress.prefixes = staying + added
    progress.log_scale += math.log(best)


@compiled_core
def _read_blank(prefixes: Records, active: Integers, count: int) -> None:
    """Read a frame that can hold nothing but the blank."""
    for a in range(count):
        prefix = prefixes[active[a]]
        prefix.p_blank, prefix.p_symbol = prefix.p_blank + prefix.p_symbol, 0.0


@compiled_core
def _read_frames(
    log_probs: npt.NDArray[np.float32], begin: int, beam: Beam, scorer: Scorer, scratch: Any
) -> int:
    """Implement `read_frames` with the working memory that it allocates."""
    # The functions called once per frame take single arrays: passing these tuples on instead was
    # measured to cost 7 to 34 % of the time.
    prefixes, active, free, history, progress_array = beam
    rules, lexicon, ngrams, (move, column, factors, _) = scorer
    (
        tokens, positions, symbol_probs, taken, candidates, probabilities, ties, buckets, by_hash,
        by_key,
    ) = scratch  # fmt: skip
    progress = progress_array[0]
    for t in range(begin, len(log_probs)):
        if progress.history + 2 * len(active) > len(history):
            return t
        likely = 0
        for symbol in range(1, log_probs.shape[1]):
            if log_probs[t, symbol] > rules.token_floor:
                tokens[likely], positions[symbol] = symbol, likely
                likely += 1
        if likely == 0:
            if progress.silent == 0:
                _read_blank(prefixes, active, progress.prefixes)
            progress.silent = 1
            progress.log_scale += log_probs[t, 0]
            progress.frames += 1
            continue
        progress.silent = 0
        symbol_probs[0] = math.exp(log_probs[t, 0])
        top = 0.0
        for k in range(likely):
            prob = math.exp(log_probs[t, tokens[k]])
            symbol_probs[tokens[k]] = prob
            top = max(top, prob * (rules.lift if tokens[k] == rules.space else rules.boost))
        frame = progress.frames
        staying = progress.prefixes
        best, least, filled = _update(
            prefixes, active, staying, symbol_probs, positions, rules.space, frame, by_hash, taken,
            probabilities,
        )  # fmt: skip
        if rules.recombine:
            staying -= _recombine(
                prefixes, active, staying, frame, by_hash, by_key, filled, probabilities
            )
        if staying < rules.beam:  # only a full beam rejects what is below its worst prefix
            least = 0.0
        made, best = _extend(
            prefixes, active, progress.prefixes, tokens[:likely], symbol_probs, top, frame, taken,
            candidates, probabilities, best, least, rules, lexicon, ngrams, move, column, factors,
        )  # fmt: skip
        if best > 0.0:
            _select(
                prefixes, active, free, progress, history, candidates, made, probabilities, buckets,
                ties, best, rules, move, column,
            )  # fmt: skip
        else:  # only the blank is possible, and its probability underflows
            _read_blank(prefixes, active, progress.prefixes)
            progress.log_scale += log_probs[t, 0]
        for k in range(likely):
            symbol_probs[tokens[k]] = 0.0
        progress.frames += 1
    return len(log_probs)


@compiled
def read_frames(log_probs: npt.NDArray[np.float32], begin: int, beam: Beam, scorer: Scorer) -> int:
    """Read the frames of `log_probs` (T', V) from `begin` on.

    Returns the first frame that was not read: T', or earlier if the history is full.
    """
    symbols, width = log_probs.shape[1], scorer.rules.beam
    most = 0
    for t in range(begin, len(log_probs)):
        likely = 0
        for symbol in range(1, symbols):
            likely += log_probs[t, symbol] > scorer.rules.token_floor
        most = max(most, likely)
    size = 16
    while size < 8 * width:
        size *= 2
    by_hash = np.empty(size, _ENTRY)  # slots of prefixes by hash
    by_key = np.empty(size, _ENTRY)  # indices of active prefixes by recombination key
    for e in range(size):
        by_hash[e].frame = by_key[e].frame = -1
    scratch = (
        np.zeros(most, np.int32),  # tokens: likely symbols of the frame
        np.zeros(symbols, np.int32),  # positions: index of each symbol in `tokens`
        np.zeros(symbols),  # symbol_probs: probability of each likely symbol, 0 for others
        # taken: last frame in which this extension (slot, index in `tokens`) already existed
        np.full((len(beam.prefixes), max(most, 1)), np.int64(-1)),
        np.empty(width * (most + 1), _CANDIDATE),  # candidates
        np.empty(width * (most + 2)),  # probabilities of the active prefixes, then of candidates
        np.empty(width * (most + 2)),  # ties: probabilities in the bucket that is sorted
        np.empty(_BUCKETS, np.int32),  # buckets: number of probabilities in each
        by_hash,
        by_key,
    )
    return _read_frames(log_probs, begin, beam, scorer, scratch)


@compiled_core
def finish(beam: Beam, finals: Records, scorer: Scorer) -> None:
    """Fill in `finals` (FINAL, one per active prefix): the results if the utterance ends now."""
    prefixes, active, count = beam.prefixes, beam.active, beam.progress[0].prefixes
    rules, lexicon, ngrams, (move, column, factors, _) = scorer
    best = 0.0
    for drop in range(2):  # if no open word may end here, all of them are dropped
        for a in range(count):
            prefix, final = prefixes[active[a]], finals[a]
            final.slot, final.drop, final.hash = active[a], drop, prefix.hash
            final.last_word, final.earlier_word = prefix.last_word, prefix.earlier_word
            probability = prefix.p_blank + prefix.p_symbol
            probability *= factors[prefix.hotword_state, 1]
            state = prefix.lm_state
            if prefix.open_word != 0 and drop == 0:
                if math.isnan(prefix.word_factor):
                    _score_open_word(prefix, rules, lexicon, ngrams)
                hot = move[prefix.hotword_state, column[rules.space]]
                probability *= prefix.word_factor * factors[hot, 0] * factors[hot, 1]
                state = prefix.next_lm_state
                final.hash = _mix(prefix.hash, rules.space)
                final.last_word, final.earlier_word = prefix.open_word, prefix.last_word
            log_prob, _ = query(ngrams, np.int64(state), np.int64(rules.end_word))
            final.probability = probability * math.exp(rules.alpha * log_prob)
            best = max(best, final.probability)
        if best > 0.0:
            break
    for a in range(count):
        prefix, final = prefixes[active[a]], finals[a]
        agreeing, total = 0.0, 0.0
        for b in range(count):
            total += finals[b].probability
            if finals[b].last_word == final.last_word or finals[b].earlier_word == final.last_word:
                agreeing += finals[b].probability
        final.last_posterior = agreeing / total if total > 0.0 else 1.0
        final.earlier_posterior = prefix.posterior
        if prefix.open_word != 0 and final.drop == 0:
            final.earlier_posterior = _posterior_of(prefix.last_word, prefixes, active, count)
    for a in range(count):  # add up prefixes that differ only in a space at the end
        for b in range(a):
            if finals[a].hash == finals[b].hash and finals[b].probability > 0.0:
                high, low = (a, b) if finals[a].probability > finals[b].probability else (b, a)
                finals[high].probability += finals[low].probability
                finals[low].probability = 0.0
                break


@compiled_core
def trace_words(
    history: Records, prefix: Record, begin: int, separator: int,
    code_points: npt.NDArray[np.uint32], letters: npt.NDArray[np.uint32], first_frames: Longs,
    last_frames: Longs, posteriors: Floats,
) -> tuple[int, int]:  # fmt: skip
    """Write the words of a prefix backward from the end of the last four arrays.

    The words are those after the history node `begin`, which is a separator, or 0 for all words.
    `code_points` (V,) holds the character of each symbol. `letters` takes the code points of the
    text, the others a number per word; a posterior is -1 until the words after it have confirmed
    it. Returns how many letters (with the spaces between words) and how many words were written.
    """
    at, words = len(letters), len(first_frames)
    symbol, node = prefix.last_symbol, prefix.parent_node
    first_frame, last_frame, posterior = prefix.first_frame, prefix.last_frame, prefix.posterior
    inside = False
    # A space holds the posterior of the word before the one that it ends.
    this_word, earlier_word = -1.0, -1.0
    while True:
        if symbol == separator:
            inside = False
            this_word, earlier_word = earlier_word, posterior
        else:
            if not inside:
                if words < len(first_frames):
                    at -= 1
                    letters[at] = 32  # code point of the space
                words -= 1
                last_frames[words], posteriors[words] = last_frame, this_word
                inside = True
            at -= 1
            letters[at], first_frames[words] = code_points[symbol], first_frame
        if node == begin:
            return len(letters) - at, len(first_frames) - words
        before = history[node]
        first_frame, last_frame = before.first_frame, before.last_frame
        symbol, posterior, node = before.symbol, before.posterior, before.parent


@compiled
def find_settled(beam: Beam, separator: int) -> tuple[int, int, int]:
    """Find what all prefixes have in common after the settled node, which only moves forward.

    Returns the number of words after that node that have ended in all prefixes alike, the last
    separator whose node all prefixes share, and how many of these words lie before it. Prefixes
    with the same symbols at different times have different nodes.
    """
    prefixes, active, history, progress = beam.prefixes, beam.active, beam.history, beam.progress[0]
    heads = prefixes["parent_node"][active[: progress.prefixes]]
    root = heads.min()
    while heads.max() > root:  # a parent has a smaller number than its child
        for a in range(len(heads)):
            while heads[a] > root:
                heads[a] = history[heads[a]].parent
        root = heads.min()
    common_symbols = np.empty(progress.history + 1, np.int32)  # symbols of the first prefix
    longest = 0
    for a in range(len(heads)):
        length, node = 1, prefixes[active[a]].parent_node
        while node != root:
            length, node = length + 1, history[node].parent
        common = length if a == 0 else min(longest, length)
        symbol, node = prefixes[active[a]].last_symbol, prefixes[active[a]].parent_node
        for index in range(length - 1, -1, -1):
            if a == 0:
                common_symbols[index] = symbol
            elif index < common and common_symbols[index] != symbol:
                common = index
            symbol, node = history[node].symbol, history[node].parent
        longest = common
    before, after = 0, 0  # words that end up to the common node, and words that end after it
    for index in range(longest):  # a separator at the beginning of the text ends no word
        after += common_symbols[index] == separator and (index > 0 or root != 0)
    settled = progress.settled
    while root != progress.settled:
        if history[root].symbol == separator and history[root].parent != 0:
            settled = max(settled, root)
            before += 1
        root = history[root].parent
    return before + after, settled, before


@compiled
def compact_history(beam: Beam) -> None:
    """Drop the history nodes that no prefix needs, and renumber the others."""
    prefixes, active, history, progress = beam.prefixes, beam.active, beam.history, beam.progress[0]
    number = np.zeros(progress.history, np.int32)  # 1 if the node is needed; then its new number
    number[0] = 1
    for a in range(progress.prefixes):
        prefix = prefixes[active[a]]
        prefix.own_node = -1
        node = prefix.parent_node
        while number[node] == 0:
            number[node] = 1
            node = history[node].parent
    kept = 0
    for node in range(progress.history):  # a parent has a smaller number than its child
        if number[node]:
            number[node] = kept
            history[kept] = history[node]
            if node:
                history[kept].parent = number[history[kept].parent]
            kept += 1
    for a in range(progress.prefixes):
        prefixes[active[a]].parent_node = number[prefixes[active[a]].parent_node]
    progress.settled = number[progress.settled]
    progress.history = kept
