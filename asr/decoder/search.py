"""The compiled part of the beam search: reads frames, keeps the best texts, traces their words.

`asr.decoder.beam` says what is searched for and how it is used; here is the work on one frame after the
other, in the order in which it is done: `_stay`, `_recombine`, `_extend`, `_select`. All that a
search remembers lies in arrays that the caller owns, so that it can stop between any two frames.

Inside compiled code `texts[slot]` is a reference: its fields can be read and set.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr.compiled import compiled, compiled_core
from asr.decoder.hotwords import Hotwords
from asr.lm.ngrams import NGrams, query

Records = npt.NDArray[np.void]  # an array of one of the types below
Record = Any  # an element of it
Integers = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Integer = int | np.int32 | np.int64

# One text that is searched on: a path into the history, and the masses of its alignments.
TEXT = np.dtype(
    [
        ("blank", np.float64),  # mass of the alignments that end in a blank
        ("symbol", np.float64),  # mass of those that end in the last symbol
        ("next_blank", np.float64),  # the same two after the frame that is being read
        ("next_symbol", np.float64),
        ("arrival", np.float64),  # what a mass is multiplied by when it adds the last symbol
        ("word_weight", np.float64),  # what ending the open word multiplies by; NaN: not yet asked
        ("text", np.int64),  # hash of the whole text
        ("parent", np.int64),  # hash of the text without its last symbol
        ("future", np.int64),  # equal for texts that nothing to come can tell apart
        ("word", np.int64),  # hash of the open word; 0: none is open
        ("last_word", np.int64),  # of the word before it
        ("earlier_word", np.int64),  # of the one before that
        ("first_frame", np.int64),  # in which the last symbol was said
        ("last_frame", np.int64),
        ("posterior", np.float64),  # after a space: of the word before the one that it ended
        ("last", np.int32),  # symbol
        ("state", np.int32),  # of the language model, at the beginning of the open word
        ("word_state", np.int32),  # of the language model after the open word
        ("node", np.int32),  # of the lexicon; -1: the open word has left it
        ("hot", np.int32),  # state of the hotwords
        ("past", np.int32),  # history without the last symbol
        ("own", np.int32),  # history with it; -1: not yet written
        ("source", np.int32),  # the parent, where most of the mass arrives in this frame; or -1
    ],
    align=True,
)
# A text that one more symbol would make, in the frame that is being read.
_CANDIDATE = np.dtype(
    [
        ("weight", np.float64),
        ("parent", np.int32),
        ("symbol", np.int32),
        ("node", np.int32),
    ],
    align=True,
)
# One symbol of a text that is or was searched on; node 0 is the beginning of all texts.
HISTORY = np.dtype(
    [
        ("first_frame", np.int64),
        ("last_frame", np.int64),
        ("posterior", np.float64),
        ("past", np.int32),
        ("symbol", np.int32),
    ],
    align=True,
)
# What a text is worth if nothing comes any more.
END = np.dtype(
    [
        ("mass", np.float64),
        ("text", np.int64),
        ("last_word", np.int64),
        ("earlier_word", np.int64),
        ("last_posterior", np.float64),
        ("earlier_posterior", np.float64),
        ("slot", np.int64),
        ("drop", np.int64),  # 1: the open word does not count, because the lexicon lacks it
    ],
    align=True,
)
PROGRESS = np.dtype(
    [
        ("frames", np.int64),
        ("log_scale", np.float64),
        ("texts", np.int64),  # active ones
        ("free", np.int64),  # slots
        ("history", np.int64),  # nodes
        ("silent", np.int64),  # 1: the last frame held nothing but the blank
        ("settled", np.int64),  # a separator in the history of all texts; 0: none is known
    ],
    align=True,
)
# The texts of a frame by a hash: open addressing; an entry of another frame is free.
_ENTRY = np.dtype([("key", np.int64), ("frame", np.int64), ("slot", np.int64)], align=True)

_BUCKETS = 256
_LEAST = 5e-324  # the smallest number above 0: a text without mass is none
LIFT = 1e3  # the language model may lift a word over its look-ahead, but hardly by more than this
EMPTY_TEXT = 12345  # a hash; any number but 0


class Rules(NamedTuple):
    """A `DecoderConfig` as compiled code takes it."""

    beam: int
    token_floor: float  # log-probability below which a symbol is not tried
    cutoff: float  # share of the best mass below which a text is dropped
    space: int  # -1: none
    end_word: int  # the language model's end of a sentence
    recombine: bool
    strict: bool
    alpha: float
    word_bonus: float  # exp(beta)
    unknown_log_prob: float  # of the unknown word, alone
    first_node: int  # of the lexicon at the beginning of a word; -1: no lexicon
    hot: bool  # whether there are hotwords
    boost: float  # the most that a symbol may multiply a mass by
    lift: float  # the most that the end of a word may
    small: bool  # whether the lexicon's bit masks may be used


@compiled_core
def _mix(hash: Integer, value: Integer) -> np.int64:
    hash = (hash ^ (np.int64(value) + np.int64(0x51ED27))) * np.int64(-7046029254386353131)
    hash = (hash ^ (hash >> np.int64(29))) * np.int64(-4658895280553007687)
    return hash ^ (hash >> np.int64(32))


@compiled_core
def _bucket(value: float, best: float) -> int:
    """Which eighth of an octave below `best` a value is in, up to the last bucket.

    Read as integers, floating point numbers above 0 have the same order: exponent, then mantissa.
    """
    distance = np.float64(best).view(np.int64) - np.float64(value).view(np.int64)
    return min(int(distance >> 49), _BUCKETS - 1)


@compiled_core
def _threshold(
    masses: Floats,
    count: int,
    floor: float,
    best: float,
    keep: int,
    buckets: Integers,
    same: Floats,
) -> float:
    """What a mass must reach so that at most `keep` of the first `count` do, apart from equals.

    They are counted in buckets; only the bucket in which the limit falls has to be sorted.
    """
    buckets[:] = 0
    enough = 0
    for i in range(count):
        if masses[i] >= floor:
            buckets[_bucket(masses[i], best)] += 1
            enough += 1
    if enough <= keep:
        return floor
    bucket = 0
    while buckets[bucket] < keep:
        keep -= buckets[bucket]
        bucket += 1
    found = 0
    for i in range(count):
        if masses[i] >= floor and _bucket(masses[i], best) == bucket:
            same[found] = masses[i]
            found += 1
    for i in range(keep):  # a selection sort, as far as needed
        for j in range(i + 1, found):
            if same[j] > same[i]:
                same[i], same[j] = same[j], same[i]
    return float(same[keep - 1])


@compiled_core
def _find(table: Records, frame: int, key: int) -> int:
    """The place of a hash among those of the frame: where it is, or where it would go."""
    place = key & (len(table) - 1)
    while table[place].frame == frame and table[place].key != key:
        place = (place + 1) & (len(table) - 1)
    return place


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
        below = (below & np.int64(0x3333333333333333)) + (
            (below >> 2) & np.int64(0x3333333333333333)
        )
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
def _weigh_word(text: Record, rules: Rules, lexicon: Records, ngrams: NGrams) -> None:
    """Fill in what ending the open word multiplies by, and the language model's state after it."""
    node = text.node
    word = lexicon[node].word if node > 0 else np.int32(-1)
    if word < 0 and rules.strict:
        text.word_weight = 0.0
        text.word_state = 0
        return
    log_prob, state = query(ngrams, np.int64(text.state), np.int64(max(word, 0)))
    text.word_state = state
    if word >= 0:
        weight = math.exp(rules.alpha * log_prob - lexicon[node].ahead)
    else:
        weight = math.exp(rules.alpha * (log_prob - rules.unknown_log_prob))
        if node > 0:
            weight *= lexicon[node].leave
    text.word_weight = weight * rules.word_bonus


@compiled_core
def _pending(text: Record, parent: Record) -> float:
    """The mass that would go from the parent to the text if its last symbol were certain."""
    able = parent.blank if parent.last == text.last else parent.blank + parent.symbol
    return float(able * text.arrival)


@compiled_core
def _index(texts: Records, active: Integers, count: int, frame: int, table: Records) -> None:
    """Make the texts' slots known by their hashes."""
    for a in range(count):
        slot = active[a]
        entry = table[_find(table, frame, texts[slot].text)]
        entry.key, entry.frame, entry.slot = texts[slot].text, frame, slot


@compiled_core
def _stay(
    texts: Records,
    active: Integers,
    count: int,
    probs: Floats,
    place: Integers,
    space: int,
    frame: int,
    table: Records,
    taken: npt.NDArray[np.int64],
    masses: Floats,
) -> tuple[float, float, bool]:
    """What each text is worth after the frame if it gets no new symbol, or gets its last one now.

    Returns the highest mass, the lowest, and whether `table` had to be filled.
    """
    indexed = False
    best, worst = 0.0, np.inf
    for a in range(count):
        text = texts[active[a]]
        symbol = text.last
        prob = probs[symbol]
        total = text.blank + text.symbol
        text.next_blank = total * probs[0]
        # Spaces in a row are one, with or without blanks between them.
        stays = (total if symbol == space else text.symbol) * prob
        text.source = -1
        if prob > 0.0:
            if not indexed:
                _index(texts, active, count, frame, table)
                indexed = True
            entry = table[_find(table, frame, text.parent)]
            if entry.frame == frame:
                parent = texts[entry.slot]
                taken[entry.slot, place[symbol]] = frame
                arrives = _pending(text, parent) * prob
                if arrives > text.next_blank + stays:
                    text.source = entry.slot
                stays += arrives
        text.next_symbol = stays
        masses[a] = text.next_blank + stays
        best = max(best, masses[a])
        worst = min(worst, masses[a])
    return best, worst, indexed


@compiled_core
def _recombine(
    texts: Records,
    active: Integers,
    count: int,
    frame: int,
    table: Records,
    futures: Records,
    indexed: bool,
    masses: Floats,
) -> int:
    """Drop the texts that another one with the same future is ahead of, and will be.

    Whatever comes multiplies the masses of both alike; only what still arrives from its parent
    could bring the smaller one ahead. The dropped get a mass below 0; returns how many they are.
    """
    dropped = 0
    for a in range(count):
        entry = futures[_find(futures, frame, texts[active[a]].future)]
        if entry.frame != frame:
            entry.key, entry.frame, entry.slot = texts[active[a]].future, frame, a
            continue
        ahead, behind = entry.slot, a
        if masses[behind] > masses[ahead]:
            ahead, behind = behind, ahead
        entry.slot = ahead
        if not indexed:
            _index(texts, active, count, frame, table)
            indexed = True
        text = texts[active[behind]]
        mass = masses[behind]
        parent = table[_find(table, frame, text.parent)]
        if parent.frame == frame:
            mass += _pending(text, texts[parent.slot])
        if mass <= masses[ahead]:
            masses[behind] = -1.0
            dropped += 1
    return dropped


@compiled_core
def _extend(
    texts: Records,
    active: Integers,
    count: int,
    tokens: Integers,
    probs: Floats,
    top: float,
    frame: int,
    taken: npt.NDArray[np.int64],
    candidates: Records,
    masses: Floats,
    best: float,
    least: float,
    rules: Rules,
    lexicon: Records,
    ngrams: NGrams,
    move: Integers,
    column: Integers,
    factors: Floats,
) -> tuple[int, float]:
    """The texts that one more symbol makes, if worth at least `least`.

    Their masses come behind those of the texts that stay. Returns how many, and the highest.
    """
    floor = max(best * rules.cutoff, least, _LEAST)
    made = 0
    for a in range(count):
        slot = active[a]
        text = texts[slot]
        total = text.blank + text.symbol
        if total * top < floor or masses[a] < 0.0:
            continue
        for k in range(len(tokens)):
            symbol = tokens[k]
            mass = (text.blank if symbol == text.last else total) * probs[symbol]
            most = rules.lift if symbol == rules.space else rules.boost
            if mass * most < floor or taken[slot, k] == frame:
                continue
            weight = 1.0
            node = -1
            if symbol == rules.space:
                if text.word == 0:
                    continue
                if math.isnan(text.word_weight):
                    _weigh_word(text, rules, lexicon, ngrams)
                weight = text.word_weight
                node = rules.first_node
            elif text.node >= 0:
                node = _child(lexicon, rules.small, text.node, symbol)
                if node >= 0:
                    weight = lexicon[node].enter
                elif rules.strict:
                    continue
                else:
                    weight = lexicon[text.node].leave
            if rules.hot:
                weight *= factors[text.hot, 1] * factors[move[text.hot, column[symbol]], 0]
            mass *= weight
            if mass < floor:
                continue
            if mass > best:
                best = mass
                floor = max(floor, best * rules.cutoff)
            masses[count + made] = mass
            candidate = candidates[made]
            candidate.weight, candidate.parent = weight, slot
            candidate.symbol, candidate.node = symbol, node
            made += 1
    return made, best


@compiled_core
def _write_history(text: Record, history: Records, progress: Record) -> int:
    """The node of the text's whole history."""
    if text.own < 0:
        text.own = progress.history
        node = history[progress.history]
        node.past, node.symbol, node.posterior = text.past, text.last, text.posterior
        node.first_frame, node.last_frame = text.first_frame, text.last_frame
        progress.history += 1
    return int(text.own)


@compiled_core
def _share(texts: Records, active: Integers, count: int, word: int) -> float:
    """The share of the masses in which one of the last two whole words is `word` (a hash)."""
    having, all_of_them = 0.0, 0.0
    for a in range(count):
        text = texts[active[a]]
        mass = text.blank + text.symbol
        all_of_them += mass
        if text.last_word == word or text.earlier_word == word:
            having += mass
    return having / all_of_them


@compiled_core
def _begin_text(
    text: Record,
    parent: Record,
    candidate: Record,
    history: Records,
    progress: Record,
    rules: Rules,
    move: Integers,
    column: Integers,
) -> None:
    """Make `text` what the candidate says."""
    symbol = candidate.symbol
    text.blank, text.last = 0.0, symbol
    text.text, text.parent = _mix(parent.text, symbol), parent.text
    text.node, text.arrival, text.word_weight = candidate.node, candidate.weight, np.nan
    text.hot = move[parent.hot, column[symbol]] if rules.hot else 0
    text.past, text.own = _write_history(parent, history, progress), -1
    text.first_frame = text.last_frame = progress.frames
    if symbol == rules.space:
        text.state = parent.word_state
        text.future = _mix(_mix(text.state, 77), text.hot)
        text.word, text.last_word, text.earlier_word = 0, parent.word, parent.last_word
    else:
        text.state = parent.state
        text.future = _mix(parent.future, symbol)
        text.word = _mix(parent.word, symbol)
        text.last_word, text.earlier_word = parent.last_word, parent.earlier_word


@compiled_core
def _select(
    texts: Records,
    active: Integers,
    free: Integers,
    progress: Record,
    history: Records,
    candidates: Records,
    made: int,
    masses: Floats,
    buckets: Integers,
    same: Floats,
    best: float,
    rules: Rules,
    move: Integers,
    column: Integers,
) -> None:
    """Keep the `beam` best of the texts that stay and of the candidates, scaled by the best."""
    count = progress.texts
    floor = max(best * rules.cutoff, _LEAST)
    floor = _threshold(masses, count + made, floor, best, rules.beam, buckets, same)
    scale = 1.0 / best
    room = rules.beam
    for a in range(count):
        if masses[a] >= floor:
            room -= 1
            text = texts[active[a]]
            if text.source >= 0:  # now the history; not yet applied, others need the old one
                text.source = _write_history(texts[text.source], history, progress)
    added = 0
    word, share = np.int64(0), -1.0  # mostly all new words follow the same one
    for k in range(made):
        if masses[count + k] >= floor and added < room:
            slot = free[progress.free - 1 - added]
            _begin_text(
                texts[slot], texts[candidates[k].parent], candidates[k], history, progress, rules,
                move, column,
            )  # fmt: skip
            texts[slot].symbol = masses[count + k] * scale
            if candidates[k].symbol == rules.space:
                if share < 0.0 or texts[slot].earlier_word != word:
                    word = texts[slot].earlier_word
                    share = _share(texts, active, count, word)
                texts[slot].posterior = share
            added += 1
    # The new ones are at the end of `free`; the slots that come free go behind them for now.
    progress.free -= added
    new, freed = progress.free, progress.free + added
    staying = 0
    for a in range(count):
        slot = active[a]
        text = texts[slot]
        if masses[a] < floor:
            free[freed] = slot
            freed += 1
            continue
        text.blank, text.symbol = text.next_blank * scale, text.next_symbol * scale
        if text.source >= 0:  # the last symbol was said now, whatever was thought before
            text.past, text.first_frame = text.source, progress.frames
        if text.symbol >= text.blank or text.source >= 0:
            text.last_frame, text.own = progress.frames, -1
        active[staying] = slot
        staying += 1
    for k in range(added):
        active[staying + k] = free[new + k]
    for k in range(new + added, freed):
        free[k - added] = free[k]
    progress.free = freed - added
    progress.texts = staying + added
    progress.log_scale += math.log(best)


@compiled_core
def _read(
    log_probs: npt.NDArray[np.float32],
    begin: int,
    progress: Record,
    texts: Records,
    active: Integers,
    free: Integers,
    history: Records,
    rules: Rules,
    lexicon: Records,
    ngrams: NGrams,
    hotwords: Hotwords,
    tokens: Integers,
    place: Integers,
    probs: Floats,
    taken: npt.NDArray[np.int64],
    candidates: Records,
    masses: Floats,
    buckets: Integers,
    same: Floats,
    table: Records,
    futures: Records,
) -> int:
    """What `advance` does, with its arrays at hand."""
    move, column, factors, _ = hotwords
    symbols = log_probs.shape[1]
    for t in range(begin, len(log_probs)):
        if progress.history + 2 * len(active) > len(history):
            return t
        count = 0
        for symbol in range(1, symbols):
            if log_probs[t, symbol] > rules.token_floor:
                tokens[count], place[symbol] = symbol, count
                count += 1
        if count == 0:
            if progress.silent == 0:
                for a in range(progress.texts):
                    text = texts[active[a]]
                    text.blank, text.symbol = text.blank + text.symbol, 0.0
            progress.silent = 1
            progress.log_scale += log_probs[t, 0]
            progress.frames += 1
            continue
        progress.silent = 0
        probs[0] = math.exp(log_probs[t, 0])
        top = 0.0  # the most that any symbol may multiply a mass by
        for k in range(count):
            prob = math.exp(log_probs[t, tokens[k]])
            probs[tokens[k]] = prob
            top = max(top, prob * (rules.lift if tokens[k] == rules.space else rules.boost))
        frame = progress.frames
        staying = progress.texts
        best, least, indexed = _stay(
            texts, active, staying, probs, place, rules.space, frame, table, taken, masses
        )
        if rules.recombine:
            staying -= _recombine(texts, active, staying, frame, table, futures, indexed, masses)
        if staying < rules.beam:  # a full beam leaves no room for less than its worst
            least = 0.0
        made, best = _extend(
            texts, active, progress.texts, tokens[:count], probs, top, frame, taken, candidates,
            masses, best, least, rules, lexicon, ngrams, move, column, factors,
        )  # fmt: skip
        if best > 0.0:
            _select(
                texts, active, free, progress, history, candidates, made, masses, buckets, same, best,
                rules, move, column,
            )  # fmt: skip
        else:  # no text can go on but by the blank, which is too unlikely for floating point
            for a in range(progress.texts):
                text = texts[active[a]]
                text.blank, text.symbol = text.blank + text.symbol, 0.0
            progress.log_scale += log_probs[t, 0]
        for k in range(count):
            probs[tokens[k]] = 0.0
        progress.frames += 1
    return len(log_probs)


@compiled
def advance(
    log_probs: npt.NDArray[np.float32],
    begin: int,
    progress_array: Records,
    texts: Records,
    active: Integers,
    free: Integers,
    history: Records,
    rules: Rules,
    lexicon: Records,
    ngrams: NGrams,
    hotwords: Hotwords,
) -> int:
    """Read the frames from `begin` on. Returns the first that was not read: the history is full."""
    progress = progress_array[0]
    symbols = log_probs.shape[1]
    most = 0
    for t in range(begin, len(log_probs)):
        likely = 0
        for symbol in range(1, symbols):
            likely += log_probs[t, symbol] > rules.token_floor
        most = max(most, likely)
    tokens = np.zeros(most, np.int32)
    place = np.zeros(symbols, np.int32)  # of a symbol among the tokens
    probs = np.zeros(symbols)
    taken = np.full((len(texts), max(most, 1)), np.int64(-1))
    candidates = np.empty(rules.beam * (most + 1), _CANDIDATE)
    masses = np.empty(rules.beam * (most + 2))
    same = np.empty(len(masses))
    buckets = np.empty(_BUCKETS, np.int32)
    size = 16
    while size < 8 * rules.beam:
        size *= 2
    table = np.empty(size, _ENTRY)
    futures = np.empty(size, _ENTRY)
    for e in range(size):
        table[e].frame = futures[e].frame = -1

    return _read(
        log_probs, begin, progress, texts, active, free, history, rules, lexicon, ngrams,
        hotwords, tokens, place, probs, taken, candidates, masses, buckets, same, table, futures,
    )  # fmt: skip


@compiled_core
def conclude(
    progress_array: Records,
    texts: Records,
    active: Integers,
    ends: Records,
    rules: Rules,
    lexicon: Records,
    ngrams: NGrams,
    hotwords: Hotwords,
) -> None:
    """Fill in `ends`, one for each active text: what it is worth if nothing comes any more."""
    count = progress_array[0].texts
    best = 0.0
    for drop in range(2):  # once more without the open words, where none of them may end here
        for a in range(count):
            text, end = texts[active[a]], ends[a]
            end.slot, end.drop, end.text = active[a], drop, text.text
            end.last_word, end.earlier_word = text.last_word, text.earlier_word
            mass = (text.blank + text.symbol) * hotwords.factors[text.hot, 1]
            state = text.state
            if text.word != 0 and drop == 0:
                if math.isnan(text.word_weight):
                    _weigh_word(text, rules, lexicon, ngrams)
                hot = hotwords.move[text.hot, hotwords.column[rules.space]]
                mass *= text.word_weight * hotwords.factors[hot, 0] * hotwords.factors[hot, 1]
                state = text.word_state
                end.text = _mix(text.text, rules.space)
                end.last_word, end.earlier_word = text.word, text.last_word
            log_prob, _ = query(ngrams, np.int64(state), np.int64(rules.end_word))
            end.mass = mass * math.exp(rules.alpha * log_prob)
            best = max(best, end.mass)
        if best > 0.0:
            break
    for a in range(count):
        end, text = ends[a], texts[active[a]]
        having, all_of_them = 0.0, 0.0
        for b in range(count):
            all_of_them += ends[b].mass
            if ends[b].last_word == end.last_word or ends[b].earlier_word == end.last_word:
                having += ends[b].mass
        end.last_posterior = having / all_of_them if all_of_them > 0.0 else 1.0
        end.earlier_posterior = text.posterior
        if text.word != 0 and end.drop == 0:
            end.earlier_posterior = _share(texts, active, count, text.last_word)
    for a in range(count):  # a text with a space at its end is the text without: add them up
        for b in range(a):
            if ends[a].text == ends[b].text and ends[b].mass > 0.0:
                heavy, light = (a, b) if ends[a].mass > ends[b].mass else (b, a)
                ends[heavy].mass += ends[light].mass
                ends[light].mass = 0.0
                break


@compiled_core
def trace(
    history: Records,
    text: Record,
    begin: int,
    separator: int,
    code_points: npt.NDArray[np.uint32],
    letters: npt.NDArray[np.uint32],
    first_frames: npt.NDArray[np.int64],
    last_frames: npt.NDArray[np.int64],
    posteriors: Floats,
) -> tuple[int, int]:
    """Write the words of a text, backwards, from the end of each array. Returns the two lengths.

    It goes back to the node `begin`: a separator, or 0 for all words.
    `posteriors` are those of the words that the words after them have confirmed; -1: not yet.
    `code_points` is the character of each symbol, `letters` the words' characters with spaces.
    """
    at, words = len(letters), len(first_frames)
    symbol, node = text.last, text.past
    first_frame, last_frame, posterior = text.first_frame, text.last_frame, text.posterior
    inside = False
    # A space knows the posterior of the word before the one that it ends.
    this_word, earlier_word = -1.0, -1.0
    while True:
        if symbol == separator:
            inside = False
            this_word, earlier_word = earlier_word, posterior
        else:
            if not inside:
                if words < len(first_frames):
                    at -= 1
                    letters[at] = 32  # the space
                words -= 1
                last_frames[words], posteriors[words] = last_frame, this_word
                inside = True
            at -= 1
            letters[at], first_frames[words] = code_points[symbol], first_frame
        if node == begin:
            return len(letters) - at, len(first_frames) - words
        symbol, first_frame, last_frame = (
            history[node].symbol, history[node].first_frame, history[node].last_frame
        )  # fmt: skip
        posterior, node = history[node].posterior, history[node].past


@compiled
def find_settled(
    progress_array: Records,
    texts: Records,
    active: Integers,
    history: Records,
    separator: int,
) -> tuple[int, int, int]:
    """What all texts have alike after the node that was settled, which only grows.

    Returns how many words they share there, ended in all of them, and the last separator whose node
    they share, with how many of these words lie before it. Texts that spell the same, but at other
    times, have nodes of their own.
    """
    progress = progress_array[0]
    heads = texts["past"][active[: progress.texts]]
    root = heads.min()
    while heads.max() > root:  # a node's past has a smaller number
        for a in range(len(heads)):
            while heads[a] > root:
                heads[a] = history[heads[a]].past
        root = heads.min()
    spelled = np.empty(progress.history + 1, np.int32)  # by the first text after that node
    longest = 0
    for a in range(len(heads)):
        length, node = 1, texts[active[a]].past
        while node != root:
            length, node = length + 1, history[node].past
        common = length if a == 0 else min(longest, length)
        symbol, node = texts[active[a]].last, texts[active[a]].past
        for place in range(length - 1, -1, -1):
            if a == 0:
                spelled[place] = symbol
            elif place < common and spelled[place] != symbol:
                common = place
            symbol, node = history[node].symbol, history[node].past
        longest = common
    before, after = 0, 0  # words that end at the node that all have or before it, and behind it
    for place in range(longest):  # a separator that a text begins with ends none
        after += spelled[place] == separator and (place > 0 or root != 0)
    settled = progress.settled
    while root != progress.settled:
        if history[root].symbol == separator and history[root].past != 0:
            settled = max(settled, root)
            before += 1
        root = history[root].past
    return before + after, settled, before


@compiled
def compact(
    progress_array: Records,
    texts: Records,
    active: Integers,
    history: Records,
) -> None:
    """Drop the history that no text needs any more."""
    progress = progress_array[0]
    number = np.zeros(progress.history, np.int32)  # 1: needed; then the new number
    number[0] = 1
    for a in range(progress.texts):
        text = texts[active[a]]
        text.own = -1
        node = text.past
        while number[node] == 0:
            number[node] = 1
            node = history[node].past
    kept = 0
    for node in range(progress.history):  # a node's past has a smaller number
        if number[node]:
            number[node] = kept
            history[kept] = history[node]
            if node:
                history[kept].past = number[history[kept].past]
            kept += 1
    for a in range(progress.texts):
        texts[active[a]].past = number[texts[active[a]].past]
    progress.settled = number[progress.settled]
    progress.history = kept
