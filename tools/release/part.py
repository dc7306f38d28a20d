"""What a bill of materials is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from cyclonedx.model import HashType
from cyclonedx.model.component import ComponentType
from packageurl import PackageURL


@dataclass(frozen=True)
class Part:
    """Something that is not ours: its licence in a word or SPDX's terms, and all its texts by their files' names."""

    name: str
    version: str
    licence: str
    texts: list[tuple[str, str]]
    description: str = ""
    type: ComponentType = ComponentType.LIBRARY
    purl: PackageURL | None = None
    hashes: list[HashType] = field(default_factory=list)
    inside: list[Part] = field(default_factory=list)  # what is compiled into it or lies beside it
