"""The suffix automaton of some texts, and another text followed through it.

A state stands for the substrings that end at the same places of the texts; they are suffixes of one another, `lengths`
has that of the longest, and the longest of their suffixes that ends at further places too is in the state `links`. So
each distinct substring is in one state, that with lengths[links] < its length ≤ lengths; state 0 has the empty one.
For M codes there are at most 2 M states and 3 M transitions. (Blumer et al. 1985, "The smallest automaton recognizing
the subwords of a text"; for several texts 1987, "Complete inverted files for efficient text retrieval and analysis")

A transition is a slot of an open hash table: `keys` has state · alphabet + code or −1, `goals` the state it leads to,
`follow` the next slot of the same state, of which `heads` has the first. A code below 0 ends a text, and is in no
substring. All arrays but the table are int64, so that nothing overflows with the JIT off either.

Where state and code are few, `automaton_complete` makes a table of what following does: the state that a code leads
to from a state, by way of its suffixes if need be, and the longest match that can be there. That is many times faster.
"""

from __future__ import annotations

from cllm_cli.kernels.jit import inner, kernel

STATE, LENGTH, BEST, END, DONE = range(5)
"""What `place` holds between chunks: the state and how much of it was matched; the longest match, where it ended, and
how many codes were followed."""


@inner
def find(keys, state, code, alphabet):
    """The slot of a transition, or the free one that it would take. Their number is a power of two."""
    mask = keys.shape[0] - 1
    mixed = state * 0x9E3779B1 + code * 0x85EBCA77
    slot = (mixed ^ (mixed >> 15)) & mask
    key = state * alphabet + code
    while keys[slot] != key and keys[slot] >= 0:
        slot = (slot + 1) & mask
    return slot


@inner
def connect(heads, keys, goals, follow, slot, state, code, alphabet, goal):
    """A transition in the free slot that `find` gave for it."""
    keys[slot], goals[slot] = state * alphabet + code, goal
    follow[slot], heads[state] = heads[state], slot


@inner
def divide(lengths, links, heads, keys, goals, follow, state, code, alphabet, goal, clone):
    """Gives the shorter substrings of `goal`, which come from `state` and its suffixes by `code`, a state `clone`."""
    lengths[clone], links[clone], heads[clone] = lengths[state] + 1, links[goal], -1
    edge = heads[goal]
    while edge >= 0:
        other = keys[edge] - goal * alphabet
        connect(heads, keys, goals, follow, find(keys, clone, other, alphabet), clone, other, alphabet, goals[edge])
        edge = follow[edge]
    links[goal] = clone
    while state >= 0:
        slot = find(keys, state, code, alphabet)
        if goals[slot] != goal:
            break
        goals[slot] = clone
        state = links[state]


@kernel
def automaton_build(lengths, links, heads, keys, goals, follow, codes, alphabet):
    """Fills the arrays: `keys` is -1 before, the others 0, as they stay where no state comes to be."""
    lengths[0], links[0], heads[0] = 0, -1, -1
    states, last = 1, 0
    for i in range(codes.shape[0]):
        code = codes[i]
        if code < 0:
            last = 0
            continue
        state, new = last, -1
        slot = find(keys, state, code, alphabet)
        if keys[slot] < 0:
            new = states
            states += 1
            lengths[new], links[new], heads[new] = lengths[last] + 1, 0, -1
            while state >= 0 and keys[slot] < 0:
                connect(heads, keys, goals, follow, slot, state, code, alphabet, new)
                state = links[state]
                if state >= 0:
                    slot = find(keys, state, code, alphabet)
        if state >= 0:
            goal = goals[slot]
            if lengths[goal] != lengths[state] + 1:
                divide(lengths, links, heads, keys, goals, follow, state, code, alphabet, goal, states)
                goal = states
                states += 1
            if new >= 0:
                links[new] = goal
            else:
                new = goal
        last = new


@kernel
def automaton_follow(place, seen, lengths, links, keys, goals, codes, alphabet):
    """Follows a chunk of codes: at each, the longest substring that ends there. `seen` has each state's longest."""
    state, length, best, end, done = place[STATE], place[LENGTH], place[BEST], place[END], place[DONE]
    for i in range(codes.shape[0]):
        code = codes[i]
        if code < 0:
            state, length = 0, 0
            continue
        slot = find(keys, state, code, alphabet)
        while keys[slot] < 0 and state > 0:
            state = links[state]
            length = lengths[state]
            slot = find(keys, state, code, alphabet)
        if keys[slot] >= 0:
            state = goals[slot]
            length += 1
        if length > seen[state]:
            seen[state] = length
        if length > best:
            best, end = length, done + i + 1
    place[STATE], place[LENGTH], place[BEST], place[END] = state, length, best, end
    place[DONE] = done + codes.shape[0]


@kernel
def automaton_complete(table, order, lengths, links, keys, goals, alphabet):
    """The table (states, alphabet + 1, goal and reach), in `order`: states after their suffixes. The last code is none.

    A match of some length has min(length + 1, reach) after the code: a state's own transitions reach beyond all its
    substrings, those of a suffix one beyond the suffix.
    """
    for i in range(order.shape[0]):
        state = order[i]
        for code in range(alphabet):
            slot = find(keys, state, code, alphabet)
            if keys[slot] >= 0:
                table[state, code, 0], table[state, code, 1] = goals[slot], lengths[state] + 1
            elif state > 0:
                above = links[state]
                table[state, code, 0], table[state, code, 1] = table[above, code, 0], table[above, code, 1]
            else:
                table[state, code, 0], table[state, code, 1] = 0, 0
        table[state, alphabet, 0], table[state, alphabet, 1] = 0, 0


@kernel
def automaton_follow_table(place, seen, table, codes):
    """As `automaton_follow`, by the table. A code below 0 takes its last column, since indices wrap round."""
    state, length, best, end, done = place[STATE], place[LENGTH], place[BEST], place[END], place[DONE]
    for i in range(codes.shape[0]):
        code = codes[i]
        length = min(length + 1, table[state, code, 1])
        state = table[state, code, 0]
        if length > seen[state]:
            seen[state] = length
        if length > best:
            best, end = length, done + i + 1
    place[STATE], place[LENGTH], place[BEST], place[END] = state, length, best, end
    place[DONE] = done + codes.shape[0]


@kernel
def automaton_settle(seen, lengths, links):
    """Suffixes of what was seen were seen, each whole state of them."""
    for state in range(1, seen.shape[0]):
        above = links[state]
        while seen[state] > 0 and above > 0 and seen[above] < lengths[above]:
            seen[above] = lengths[above]
            above = links[above]
