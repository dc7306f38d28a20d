"""How numbers are written for people: counts, bytes, durations, losses, rates. A value that is None is a dash."""

from __future__ import annotations

import math


def count(value: float | None) -> str:
    """A whole number with its thousands apart: 1,003,854."""
    if value is None or not math.isfinite(value):
        return _odd(value)
    return f"{value:,.0f}"


def size(bytes_: float | None) -> str:
    """Bytes in decimal units, three digits: 34.3 MB."""
    if bytes_ is None or not math.isfinite(bytes_):
        return _odd(bytes_)
    value, units = float(bytes_), ["B", "kB", "MB", "GB", "TB"]
    while abs(value) >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    digits = 0 if units[0] == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[0]}"


def duration(seconds: float | None) -> str:
    """0.4 s, 0:52, 12:03, 1:02:03, 3d 04:05."""
    if seconds is None or not math.isfinite(seconds):
        return _odd(seconds)
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def remaining(seconds: float | None) -> str:
    """A time to go, in whole seconds so that it does not flicker: 0:05."""
    if seconds is None or not -math.inf < seconds < 9.95:
        return duration(seconds)
    return f"0:{max(round(seconds), 0):02}"


def loss(value: float | None) -> str:
    """A loss in nats, or a figure of that size: 1.8812."""
    return decimal(value, 4)


def decimal(value: float | None, places: int) -> str:
    """A number with `places` decimals, so that a column of them stays aligned."""
    if value is None or not math.isfinite(value):
        return _odd(value)
    if abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:,.{places}f}"


def scientific(value: float | None) -> str:
    """A learning rate or an error: 1.00e-03."""
    return _odd(value) if value is None or not math.isfinite(value) else f"{value:.2e}"


def share(value: float | None) -> str:
    """A fraction as per cent: 65 %."""
    return _odd(value) if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"


def _odd(value: float | None) -> str:
    return "-" if value is None else str(value)
