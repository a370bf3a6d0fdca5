"""The sample: one conversation as tokens and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .show_html import facts, token_ids


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedSample:
    """One conversation, ready to pack."""

    tokens: npt.NDArray[np.int64]
    """int64[seq]; the image token's id (-200) where an image goes."""
    labels: npt.NDArray[np.int64]
    """int64[seq]; the token where loss is taken, ignore_index (-100) elsewhere. Not shifted."""
    key: str = ""
    """Shard key or record id, for messages."""
    num_images: int = 0
    """Images that the tokens have room for, in order from the conversation's first."""
    events: Mapping[str, int] = field(default_factory=dict)
    """Reason code -> how often, for everything that was dropped, cut or escaped."""

    @property
    def num_trained(self) -> int:
        """Tokens on which loss is taken, wherever labels repeat the token."""
        return int((self.labels == self.tokens).sum())

    def _repr_html_(self) -> str:
        """For notebooks: the ids, what is trained marked."""
        known = {"tokens": len(self.tokens), "trained": self.num_trained, "images": self.num_images}
        shown = facts(f"tokens of {self.key or 'a sample'}", {**known, **self.events})
        return shown + token_ids(self.tokens.tolist(), (self.labels == self.tokens).tolist())
