"""What classes are known by: names, texts, WordNet, a taxonomy, the user's own vectors; and how these become one."""

from vgse.data.knowledge.fusion import fuse
from vgse.data.knowledge.reading import read_sources
from vgse.data.knowledge.source import Source, check_weights, missing_report

__all__ = ["Source", "check_weights", "fuse", "missing_report", "read_sources"]
