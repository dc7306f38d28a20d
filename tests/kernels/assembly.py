"""What tests read in the assembly of kernels."""

from __future__ import annotations

import re


def loops(text):
    """The instructions of each block that jumps back to its own label, on x86-64 or AArch64."""
    blocks = re.split(r"^(\.LBB\w+):.*\n", text, flags=re.MULTILINE)
    for label, body in zip(blocks[1::2], blocks[2::2], strict=True):
        if re.search(rf"\t(j\w+|b|b\.\w+|cbn?z\t\w+,|tbn?z\t\w+, #\d+,)\s+{re.escape(label)}\b", body):
            yield [line.strip() for line in body.splitlines() if line.startswith("\t")]
