"""Options that commands share, and the flags that follow from the settings."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer

from cllm_cli import config
from cllm_cli.config import Settings, flag_of, setting_of, type_of
from cllm_cli.errors import UsageError

MOST_THREADS, LARGEST_SEED = (
    setting_of(next(item for item in fields(Settings) if item.name == name)).high for name in ("threads", "seed")
)


def allow_threads(count: int | None) -> int | None:
    """Lets kernels run on more threads than there are cores. Numba asks when it is imported, so this comes before."""
    if count is not None and count > len(os.sched_getaffinity(0)) and "numba" not in sys.modules:
        os.environ["NUMBA_NUM_THREADS"] = str(count)
    return count


def choose_cpu(level: str | None) -> str | None:
    """Says for which CPU kernels are compiled. It is decided when they are imported, so this comes before."""
    if level is not None:
        os.environ["CLLM_CPU"] = level
    return level


def as_utf8(text: str) -> str:
    """An argument read as UTF-8, whatever the platform's encoding; bytes that are none stay as surrogate escapes."""
    try:
        return os.fsencode(text).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, which came from no command line
        return text


def whole_numbers(flag: str, text: str | None) -> list[int | None]:
    """The numbers of an option that takes one or several, "8,16"; [None] where it was not given. Raises UsageError."""
    if text is None:
        return [None]
    parts = text.split(",")
    if not all(re.fullmatch(r" *0*[1-9][0-9]{0,8} *", part) for part in parts):
        raise UsageError(f"{flag} takes whole numbers from 1 on, not {text!r}", f"for example {flag} 8, or {flag} 8,16")
    return [int(part) for part in parts]


Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", show_default=False)]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        callback=allow_threads,
        min=1,
        max=MOST_THREADS,
        metavar="N",
        help="Threads (default: all cores).",
        show_default=False,
    ),
]

Cpu = Annotated[
    str | None,
    typer.Option(
        "--cpu",
        callback=choose_cpu,
        metavar="LEVEL",
        help="Kernels for native (this CPU), x86-64-v3 or x86-64-v4 (default: those that came along, else native).",
        show_default=False,
    ),
]

ALIASES = {
    "out-dir": "out",
    "output-dir": "out",
    "max-new-tokens": "tokens",
    **{alias: name.replace("_", "-") for alias, name in config.ALIASES.items()},
}
"""Names that people bring along from other tools."""

METAVARS = {int: "N", float: "X", str: "NAME", tuple: "GLOB"}
OWN_METAVARS = {"tokenizer": "SPEC", "val": "FILE", "memory": "SIZE", "split_on": "TEXT"}


def known_name(name: str) -> str:
    """An option's own name: `_` stands for `-`, and aliases for what they mean."""
    dashed = name.replace("_", "-")
    return ALIASES.get(dashed, dashed)


def with_settings(command: Callable[..., None], group: str = "") -> Any:
    """Gives a command a flag for every setting, or for those of one group.

    It receives those that were given as the dictionary `settings`.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    flags = [_flag(item) for item in fields(Settings) if group in ("", setting_of(item).group)]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        settings = {flag.name: values.pop(flag.name) for flag in flags}
        command(**values, settings={name: value for name, value in settings.items() if value not in (None, [])})

    parameters = [parameter for parameter in own if parameter.name != "settings"] + flags
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads it
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def metavar_of(item: Any) -> str | None:
    """What stands for a setting's value in the help; None for a switch."""
    return OWN_METAVARS.get(item.name, METAVARS.get(type_of(item)))


def _flag(item: Any) -> inspect.Parameter:
    """The flag of a setting. Its range is not Typer's to check: `make_settings` does so, for flags and files alike."""
    setting, kind = setting_of(item), type_of(item)
    flag = flag_of(item.name)
    shown = setting.help
    if item.default is not None and item.default is not False:
        shown += f" (default: {item.default:g})" if kind is float else f" (default: {item.default})"
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=shown,
        metavar=metavar_of(item),
        show_default=False,
        rich_help_panel=setting.group,
    )
    taken: Any = list[str] if kind is tuple else kind
    annotation = Annotated[taken | None, option]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
