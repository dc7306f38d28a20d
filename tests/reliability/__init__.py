"""Harnesses that show what no single test shows: thousands of moments at which a run may be ended.

    python -m tests.reliability PART [--count N] [--seed S]      one JSON line; exit code 1 where anything failed

The tests beside them run each with a smaller count.
"""
