from __future__ import annotations

import pytest

from cllm_cli.reporting.tables import show_evaluation, show_gradcheck, show_profile

EVALUATION = {"event": "eval", "tokens": 111_539, "bytes": 120_000, "loss": 1.88123, "perplexity": 6.5617}
EVALUATION |= {"bits_per_byte": 2.714, "accuracy": 0.451}


def check(layer: str, tensor: str, error: float) -> dict:
    values = {"event": "check", "layer": layer, "sizes": {"N": 7, "C": 5}, "tensor": tensor, "dtype": "float64"}
    return values | {"error": error, "tolerance": 1e-6, "ok": error < 1e-6}


def layer(name: str, direction: str, ms: float, share: float | None) -> dict:
    values = {"event": "layer", "name": name, "direction": direction, "calls": 4, "ms": ms, "gbytes_per_s": 12.3}
    return values | {"gflops": None if share is None else 220 * share, "roof_share": share, "copy_share": None}


CHECKS = [check("layernorm", "x", 2e-9), check("a_layer_of_a_very_long_name", "weight", 1.2e-4)]
CHECKS_END = {"event": "end", "checks": 2, "failed": 1}
PROFILE = [
    layer("linear", "forward", 3.0, 0.82),
    layer("linear", "backward", 6.0, 1.2),
    layer("gelu", "forward", 1.0, None),
]
PROFILE_END = {"event": "end", "ms_per_step": 28.1, "tokens_per_s": 27_300, "gflops": 166.2, "machine_gflops": 220.5}
PROFILE_END |= {
    "roof_share": 0.754,
    "python_ms": 0.281,
    "alive_bytes": [10, 80, 40] * 50,
    "memory_bytes": {"params": 1_000_000, "total": 5_000_000},
}


def test_an_evaluation_is_a_figure_a_line(pipe):
    show_evaluation(EVALUATION, pipe)
    assert pipe.getvalue().splitlines() == [
        "loss           1.8812 nats a token",
        "bits per byte  2.714",
        "perplexity     6.56",
        "accuracy       45.1 %",
        "scored         111,539 tokens",
        "               120,000 bytes",
    ]


def test_checks_are_shown_as_they_come(pipe):
    def rows():
        yield CHECKS[0]
        assert pipe.getvalue().splitlines()[-1].split() == [
            "layernorm", "N=7", "C=5", "x", "float64", "2.00e-09", "1.00e-06", "ok",
        ]  # fmt: skip
        yield CHECKS[1]
        assert pipe.getvalue().splitlines()[-1].endswith("FAIL")
        yield CHECKS_END

    show_gradcheck(rows(), pipe)
    assert pipe.getvalue().splitlines()[-1] == "2 checks, 1 failed"


def test_a_profile_has_shares_of_time_and_roof(pipe):
    show_profile([*PROFILE, PROFILE_END], pipe)
    text = pipe.getvalue()
    assert text.splitlines()[1].split() == [
        "linear",
        "forward",
        "4",
        "3.000",
        "30",
        "%",
        "180.4",
        "12.3",
        "82",
        "%",
        "#######",
    ]
    assert text.splitlines()[3].split() == ["gelu", "forward", "4", "1.000", "10", "%", "-", "12.3", "-"]
    assert "28.1 ms a step, 27,300 tokens/s" in text
    assert "5.00 MB" in text
    assert "0.281 ms outside of kernels, 1 %" in text
    assert "peak 80 B" in text


def test_a_pipe_gets_ascii_without_escape_sequences(pipe):
    show_evaluation(EVALUATION, pipe)
    show_gradcheck([*CHECKS, CHECKS_END], pipe)
    show_profile([*PROFILE, PROFILE_END], pipe)
    assert pipe.getvalue().isascii()
    assert "\x1b" not in pipe.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_tables_fit_their_terminal(terminal, width):
    stream = terminal(width)
    show_evaluation(EVALUATION, stream)
    show_gradcheck([*CHECKS, CHECKS_END], stream)
    show_profile([*PROFILE, PROFILE_END], stream)
    assert max(map(len, stream.lines())) <= width
    assert "\x1b[" in stream.getvalue()


def test_hostile_names_are_escaped(terminal):
    stream = terminal(200)
    show_gradcheck([check("\x1b[2Jx", "w\u202e", 1e-9)], stream)
    assert "\x1b[2J" not in stream.getvalue()
    assert r"\x1b[2Jx" in stream.getvalue()
    assert r"w\u202e" in stream.getvalue()


def test_nothing_to_show_is_no_error(pipe):
    show_gradcheck([], pipe)
    show_profile([], pipe)


def test_a_closed_pipe_is_raised_to_the_caller(pipe, monkeypatch):
    def write(text: str) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(pipe, "write", write)
    with pytest.raises(BrokenPipeError):
        show_evaluation(EVALUATION, pipe)
