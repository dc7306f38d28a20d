"""The documents say what the code does."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_of_the_command_line_is_current() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "make_docs.py"))["page"]()
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == made, "run python tools/make_docs.py"


def test_links_between_documents_lead_somewhere() -> None:
    import re

    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "sample_data" / "README.md"]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))
        if "://" not in target
    ]
    assert links
    assert [(page.name, target) for page, target in links if not (page.parent / target).exists()] == []
