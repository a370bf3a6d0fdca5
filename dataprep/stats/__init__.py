"""Statistics of a source or a dataset, and how it would pack."""

from .result import DatasetStats
from .run import stats
from .tokens import Tokenizing

__all__ = ["DatasetStats", "Tokenizing", "stats"]
