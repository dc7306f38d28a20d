"""Recording and planning: what does not fit is refused, views share memory, nothing that is alive is overwritten."""

from __future__ import annotations

import dataclasses

import numba
import numpy as np
import pytest

from cllm_cli.errors import ConfigError
from cllm_cli.layers import LAYERS
from cllm_cli.layers.base import Layer, arguments
from cllm_cli.model.build import Model, ModelConfig
from cllm_cli.model.init import initialize
from cllm_cli.model.plan import make_plan
from cllm_cli.model.program import EVALUATE, GENERATE, TRAIN, Program
from cllm_cli.model.recompute import BLOCK, NONE, POLICIES
from cllm_cli.model.runs import CACHE, GRADIENT, SCRATCH, VALUE

SIZES = {"B": 2, "T": 3, "N": 6, "S": 4, "K": 16, "threads": 2, "itemsize": 4}
REAL = np.dtype(np.float32)
CONFIG = ModelConfig("gpt2", n_layer=3, n_head=2, n_embd=12, n_hidden=20, block_size=9, vocab_size=11)
CONFIGS = [
    CONFIG,
    dataclasses.replace(CONFIG, dropout=0.2),
    dataclasses.replace(CONFIG, n_layer=1, n_head=1, n_embd=1, n_hidden=1, block_size=1, vocab_size=1),
    dataclasses.replace(CONFIG, n_hidden=300, n_embd=48, vocab_size=700, block_size=40),
]


def recorded(mode=TRAIN):
    """tokens → embedding, ready for more calls."""
    net = Program(mode, SIZES)
    return net, net("embedding", net.input("tokens", "N:int32"), name="e", V=7, C=4)


def finish(net, x):
    net("cross_entropy", x, net.input("targets", "N:int32"), weight="e.weight", V=7)
    return net


# ---- recording


def test_calls_are_recorded_in_order_with_their_sizes():
    net, x = recorded()
    x = net("linear", x, name="up", F=10)
    finish(net, net("linear", net("gelu", x, C=10), name="down", C=10, F=4))
    assert [call.layer.name for call in net.calls] == ["embedding", "linear", "gelu", "linear", "cross_entropy"]
    assert net.calls[1].outputs["out"].shape == (6, 10)
    assert {name: parameter.shape for name, parameter in net.parameters.items()} == {
        "e.weight": (7, 4),
        "up.weight": (4, 10),
        "up.bias": (10,),
        "down.weight": (10, 4),
        "down.bias": (4,),
    }
    assert list(net.given) == ["tokens", "targets"]
    assert net.calls[-1].params == {"weight": "e.weight"}


def test_a_rank_is_split_where_the_letters_are_known():
    net, x = recorded()
    x = net("linear", x, name="qkv", C=4, F=12)
    out = net("attention", x, NH=2, HS=2)
    assert out.shape == (2, 3, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: net("attention", x, NH=2, HS=2), "does not fit"),
        (lambda net, x: net("linear", x, name="l"), "no size for F"),
        (lambda net, x: net("linear", x, name="l", C=5, F=2), "does not fit 'N C' with C = 5"),
        (lambda net, x: net("linear", x, weight="e.weight", bias="b", F=9), "is read as"),
        (lambda net, x: net("linaer", x), "unknown layer 'linaer'"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call(*recorded())


def test_a_tensor_that_is_read_twice_needs_a_split():
    net, x = recorded()
    finish(net, net("add", x, net("gelu", x)))
    with pytest.raises(ConfigError, match="out of e is read 2 times") as refused:
        make_plan(net, REAL)
    assert "split" in refused.value.hint
    net, x = recorded()
    one, two = net("split", x)
    make_plan(finish(net, net("add", one, net("gelu", two))), REAL)


def test_a_tensor_that_is_never_read_is_an_omission():
    net, x = recorded()
    one, _ = net("split", x)
    with pytest.raises(ConfigError, match="b of split is read 0 times"):
        make_plan(finish(net, one), REAL)


@pytest.mark.parametrize(("width", "heads", "near"), [(10, 3, 2), (12, 5, 4), (7, 2, 1), (64, 7, 8)])
def test_a_width_that_heads_do_not_divide_is_refused(width, heads, near):
    with pytest.raises(ConfigError, match=f"width {width} is not divisible by {heads} heads") as refused:
        dataclasses.replace(CONFIG, n_embd=width, n_head=heads)
    assert refused.value.hint == f"for example --n-head {near}"


def test_a_layer_whose_kernel_breaks_the_order_is_refused():
    def forward(x, out): ...

    with pytest.raises(ConfigError, match="does not follow the order"):
        Layer("wrong", forward, inputs={"x": "N"}, outputs={"out": "N"})


# ---- aliases


def test_views_share_memory():
    net, x = recorded()
    one, two = net("split", x)
    branch = net("gelu", two)
    total = net("add", one, branch)
    offsets = make_plan(finish(net, total), REAL).offsets
    # a = b = x, and da = db = dout
    assert offsets[VALUE, x.index] == offsets[VALUE, two.index]
    assert offsets[GRADIENT, total.index] == offsets[GRADIENT, branch.index] == offsets[GRADIENT, one.index]
    assert offsets[GRADIENT, two.index] != offsets[GRADIENT, one.index]


# ---- the plan of memory


def written_by(run):
    """The tensor arguments that a run writes, by the contract of a kernel's arguments."""
    layer = run.call.layer
    outputs = {*layer.outputs, *layer.saved, *layer.scratch}
    gradients = {f"d{name}" for name in layer.inputs} | layer.scratch.keys()
    return {"forward": outputs, "backward": gradients, "forward_backward": outputs | gradients, "recompute": outputs}[
        run.direction
    ]


def views_of(program):
    """For each value and gradient that is a view the tensor that it shows."""
    views = {}
    for call in program.calls:
        tensors = {**call.inputs, **call.outputs}
        for name, of in call.layer.alias.items():
            if name in tensors:
                views[VALUE, tensors[name].index] = (VALUE, tensors[of].index)
            else:
                views[GRADIENT, tensors[name[1:]].index] = (GRADIENT, tensors[of[1:]].index)
    return views


def assert_nothing_alive_is_overwritten(program, plan):
    """Goes through the runs byte by byte: what a run reads is still what was written there for it."""
    views = views_of(program)
    contents = np.full(plan.total, -1)
    numbers = {}

    def identity(key):
        while key in views:
            key = views[key]
        return numbers.setdefault(key, len(numbers))

    def bytes_of(place):
        at = plan.offsets[place.key]
        assert at % 64 == 0
        assert 0 <= at <= at + place.bytes <= plan.total
        return slice(at, at + place.bytes)

    given = {(VALUE, tensor.index) for tensor in program.given.values()}
    results = {(VALUE, tensor.index) for tensor in program.calls[-1].outputs.values()}
    runs, shown = [*plan.forward, *plan.backward], {}
    for run in runs:
        shown |= {place.key: place for place in run.places.values() if place.key in given | results}
    for key in given:
        contents[bytes_of(shown[key])] = identity(key)
    for run in runs:
        places = {name: place for name, place in run.places.items() if place.key[0] != CACHE}
        assert set(places) <= set(arguments(run.kernel))
        written = written_by(run)
        for name, place in places.items():
            if name in written:
                contents[bytes_of(place)] = identity(place.key)
        # Checked after the writes: a run may not write over what it reads, nor write two tensors to one place.
        for name, place in places.items():
            assert (contents[bytes_of(place)] == identity(place.key)).all(), f"{name} of {run.call.label}"
    for key in given | results:
        assert (contents[bytes_of(shown[key])] == identity(key)).all(), "what is read from outside"


@pytest.mark.parametrize("mode", [TRAIN, EVALUATE, GENERATE])
@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "dropout", "ones", "wide"])
@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_alive_is_overwritten(policy, config, mode):
    program = Model(config).record(mode, 2, config.block_size)
    assert_nothing_alive_is_overwritten(program, make_plan(program, REAL, policy))


def test_an_overlap_would_be_seen():
    program = Model(CONFIG).record(TRAIN, 2, 9)
    plan = make_plan(program, REAL)
    key = next(key for key in plan.offsets if key[0] == "saved")
    run = next(run for run in plan.forward if key in [place.key for place in run.places.values()])
    plan.offsets[key] = plan.offsets[run.places["out"].key]
    with pytest.raises(AssertionError, match=run.call.label):
        assert_nothing_alive_is_overwritten(program, plan)


def test_memory_is_reused():
    program = Model(CONFIG).record(TRAIN, 2, 9)
    plan = make_plan(program, REAL)
    every = {place.key: place.bytes for run in [*plan.forward, *plan.backward] for place in run.places.values()}
    assert plan.total < 0.7 * sum(every.values())
    evaluated = make_plan(Model(CONFIG).record(EVALUATE, 2, 9), REAL)
    assert evaluated.total < 0.7 * plan.total


@pytest.mark.parametrize("mode", [TRAIN, EVALUATE])
@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "dropout", "ones", "wide"])
def test_the_buffer_is_hardly_larger_than_what_is_alive_at_once(config, mode):
    plan = make_plan(Model(config).record(mode, 2, config.block_size), REAL)
    alive = {}  # for each tensor its cache lines, and the runs from its first to its last use
    for time, run in enumerate([*plan.forward, *plan.backward]):
        for place in run.places.values():
            if place.key in plan.offsets:
                start = plan.offsets[place.key] // 64
                first, _, _ = alive.get(place.key, (time, 0, 0))
                alive[place.key] = first, time, range(start, start + -(-place.bytes // 64))
    used = [
        64 * len({line for first, last, lines in alive.values() if first <= time <= last for line in lines})
        for time in range(len(plan.forward) + len(plan.backward))
    ]
    assert plan.total <= 1.06 * max(used)  # the tile decides it, 1.054 with AVX2; the smallest first: 1.09 and more
    # What is read or written from outside is in use all the time, and comes on top.
    assert all(0 <= counted - own <= plan.alive[0] for counted, own in zip(plan.alive, used, strict=True))
    assert max(plan.alive) <= plan.total


def linears(mode):
    """A program with one layer after its like, in two blocks."""
    net, x = recorded(mode)
    for number in range(4):
        x = net("linear", net.keep(x) if number % 2 == 0 else x, name=f"l{number}", F=4)
    return finish(net, x)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", [TRAIN, EVALUATE, GENERATE])
@pytest.mark.parametrize("program", [linears, lambda mode: Model(CONFIG).record(mode, 2, 9)], ids=["linears", "gpt2"])
def test_scratch_is_of_one_run_alone(program, mode, policy):
    plan = make_plan(program(mode), REAL, policy)
    keys = [place.key for run in [*plan.forward, *plan.backward] for place in run.places.values()]
    scratch = [key for key in keys if key[0] == SCRATCH]
    assert scratch
    assert len(scratch) == len(set(scratch))


def caches(plan):
    """What is kept from run to run."""
    return [place for run in plan.forward for place in run.places.values() if place.key[0] == CACHE]


def test_training_keeps_no_cache_and_evaluation_no_gradient():
    for mode in (TRAIN, EVALUATE):
        assert not caches(make_plan(Model(CONFIG).record(mode, 2, 9), REAL))
    plan = make_plan(Model(CONFIG).record(EVALUATE, 2, 9), REAL)
    assert not plan.backward
    assert not any(key[0] == GRADIENT for key in plan.offsets)
    kept = caches(make_plan(Model(CONFIG).record(GENERATE, 1, 4), REAL))
    assert [place.shape for place in kept] == [(1, 9, 2, 6)] * 6  # keys and values of three blocks, a whole window


# ---- recomputation


def runs_again(policy):
    """The layers that run again in backward, and the plan."""
    plan = make_plan(Model(CONFIG).record(TRAIN, 2, 9), REAL, policy)
    return [run.call for run in plan.backward if run.direction == "recompute"], plan


def test_what_is_cheap_is_computed_again_once():
    calls, plan = runs_again("cheap")
    names = [call.layer.name for call in calls]
    assert (names.count("layernorm"), names.count("gelu"), len(names)) == (6, 3, 9)  # ln_f's is read in forward alone
    assert len({id(call) for call in calls}) == 9
    assert plan.total < 0.95 * runs_again(NONE)[1].total


def test_blocks_but_the_last_are_computed_again_from_what_goes_into_them():
    calls, plan = runs_again(BLOCK)
    per_block = ["layernorm", "linear", "attention", "linear", "add", "layernorm", "linear", "gelu"]
    assert [call.layer.name for call in calls] == [*per_block, *per_block]
    assert [call.label.split(".")[2] for call in calls if "." in call.label] == ["1"] * 5 + ["0"] * 5
    assert plan.total < 0.9 * runs_again("cheap")[1].total


def test_a_deeper_model_needs_little_more_where_blocks_are_computed_again():
    totals = [
        make_plan(Model(dataclasses.replace(CONFIG, n_layer=depth)).record(TRAIN, 2, 9), REAL, BLOCK).total
        for depth in (2, 3, 12)
    ]
    kept = 4 * 18 * 12 + 4 * 128  # bytes of what goes into a block, and of two layer norms' means and deviations
    assert totals[2] - totals[1] <= 9 * 1.05 * kept


def test_an_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match="blok") as caught:
        Model(CONFIG, recompute="blok")
    assert "block" in caught.value.hint


def test_dropout_acts_in_training_alone():
    config = dataclasses.replace(CONFIG, dropout=0.3)
    for mode, count in [(TRAIN, 7), (EVALUATE, 0), (GENERATE, 0)]:
        calls = [call for call in Model(config).record(mode, 1, 4).calls if call.layer.name == "dropout"]
        assert len(calls) == count
        assert len({call.consts["stream"] for call in calls}) == count
        assert all(call.consts["drop"] == round(0.3 * 2**24) for call in calls)


# ---- running


def run_once(model, replay, poison):
    """Losses and all gradients of one step on a workspace that holds NaN everywhere, or whatever was there."""
    if poison:
        model.workspace.buffer.fill(0xFF)
    rng = np.random.default_rng(3)
    model.arena.gradients.fill(0)
    replay.given["tokens"][:] = rng.integers(0, 11, 18)
    replay.given["targets"][:] = rng.integers(0, 11, 18)
    step = {"position": 0, "scale": model.dtype.type(1 / 18), "key": np.uint64(5), "first_row": 0}
    replay.forward(**step)
    replay.backward(**step)
    return replay.results["losses"].tobytes() + model.arena.gradients.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_workspace_held_before_does_not_matter(dtype):
    model = Model(dataclasses.replace(CONFIG, dropout=0.2), dtype)
    initialize(model.arena, 1)
    model.arena.make_gradients()
    replay = model.replay(TRAIN, 2, 9)
    found = [run_once(model, replay, poison) for poison in (False, True, True, False)]
    assert found[1:] == found[:-1]
    assert np.isfinite(model.arena.gradients).all()
    assert model.arena.gradients.any()


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recomputation_changes_no_bit(dtype, policy):
    found = []
    for chosen in (NONE, policy):
        model = Model(dataclasses.replace(CONFIG, dropout=0.2), dtype, chosen)
        initialize(model.arena, 1)
        model.arena.make_gradients()
        found.append(run_once(model, model.replay(TRAIN, 2, 9), poison=True))
    assert found[0] == found[1]


def test_every_kernel_that_a_model_runs_is_compiled_once_for_each_precision():
    for dtype in (np.float32, np.float64):
        model = Model(dataclasses.replace(CONFIG, dropout=0.2), dtype)
        initialize(model.arena, 1)
        model.arena.make_gradients()
        for mode in (TRAIN, EVALUATE):
            replay = model.replay(mode, 2, 9)
            run_once(model, replay, False)
        decoder = model.replay(GENERATE, 1, 3)
        decoder.given["tokens"][:] = 1
        decoder.forward(position=0)
    for name in LAYERS:
        layer = LAYERS.load(name)
        for kernel in (layer.forward, layer.backward, layer.forward_backward, layer.cached):
            assert len(getattr(kernel, "signatures", [])) <= 2, kernel.signatures


def test_a_replay_runs_on_the_threads_that_it_was_planned_for(set_threads):
    """Its scratch has room for no more; another session may have set others meanwhile."""
    set_threads(1)
    model = Model(CONFIG)
    model.arena.make_gradients()
    replay = model.replay(TRAIN, 2, 3)
    step = {"position": 0, "scale": np.float32(1), "key": np.uint64(1), "first_row": 0}
    for run in (replay.forward, replay.backward):
        set_threads(3)
        run(**step)
        assert numba.get_num_threads() == 1


def test_what_is_too_small_for_two_threads_runs_on_one(set_threads):
    """And every run on those that it was given, whatever the one before had."""
    set_threads(2)
    model = Model(dataclasses.replace(CONFIG, n_head=2, n_embd=128, n_hidden=1024, block_size=128))
    model.arena.make_gradients()
    replay = model.replay(TRAIN, 2, 128)
    runners = [*replay.forward_runs, *replay.backward_runs]
    assert {runner.threads for runner in runners} == {2}
    small = model.replay(TRAIN, 1, 1)
    forward = zip(small.plan.forward, small.forward_runs, strict=True)
    # Of a single row only the products with 128 × 384 and 128 × 1024 numbers take more than a few microseconds.
    worth = {run.call.label.rpartition(".h.")[2][2:] for run, runner in forward if runner.threads == 2}
    assert worth == {"attn.c_attn", "mlp.c_fc", "mlp.c_proj"}
    runners = [*small.forward_runs, *runners]
    assert [numba.get_num_threads() for _ in small.ready(runners)] == [runner.threads for runner in runners]
    assert numba.get_num_threads() == 2
