"""What the pages of a viewer are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ...loaders.format import QUARANTINE_FILE
from ..look.html import picture_bytes, render
from ..look.open import Looked, open_looked
from ..look.source import LookedSource
from ..look.stops import Flow
from ..look.view import ImageView
from .batches import Batches
from .cache import PictureCache
from .catalogue import Catalogue

TABS = (("record", "Record"), ("sample", "Sample"), ("tokens", "Tokens"))
"""Stops that each sample has a page for."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Everything that is looked at; any thread may ask."""

    flow: Flow
    catalogue: Catalogue
    batches: Batches
    base: str
    """What all addresses begin with: the secret path."""
    pictures: PictureCache = field(default_factory=PictureCache)

    @property
    def looked(self) -> Looked:
        """Records by their number."""
        return self.flow.looked

    @property
    def has_pictures(self) -> bool:
        """Whether it is known where the images are."""
        return not isinstance(self.looked, LookedSource) or self.looked.store is not None

    @cached_property
    def rejected(self) -> Looked:
        """Rejected records by their number: of a dataset those in its quarantine."""
        if self.looked.kind == "source" or not self.looked.path.is_dir():
            return self.looked
        return open_looked(self.looked.path / QUARANTINE_FILE)

    def render(self, template: str, **context: Any) -> str:
        """A page."""
        return render(
            template,
            base=self.base,
            dataset=self.looked.path.name,
            total=self.catalogue.total,
            rejected=self.catalogue.num_rejected,
            **context,
        )

    def close(self) -> None:
        """Stop what runs in the background, and remove the temporary file."""
        self.catalogue.close()
        self.batches.close()


class CachedPictures:
    """Addresses of pictures; those that are at hand as pixels are kept for when they are asked."""

    def __init__(self, site: Site, place: str) -> None:
        """Take where they belong: `sample/7` or `batch/3`."""
        self._site, self._place = site, place

    def original(self, view: ImageView, number: int, edge: int) -> str:
        """The source's own, small."""
        index = self._place.rpartition("/")[2]
        return f"{self._site.base}/image/{index}/{number}?edge={edge}"

    def tile(self, pixels: npt.NDArray[np.uint8], number: int, tile: int, edge: int) -> str:
        """What the model gets."""
        return self._keep(f"{self._place}/{number}/{tile}", pixels, edge)

    def media(self, pixels: npt.NDArray[np.uint8], number: int, edge: int) -> str:
        """A tile of a batch."""
        return self._keep(f"{self._place}/{number}/0", pixels, edge)

    def _keep(self, name: str, pixels: npt.NDArray[np.uint8], edge: int) -> str:
        self._site.pictures.put(name, picture_bytes(pixels, edge))
        return f"{self._site.base}/tile/{name}"


def number_of(text: str | None) -> int:
    """A number in an address; 0 for anything else."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= 12 else 0


def switches_of(asked: Mapping[str, str]) -> dict[str, bool]:
    """What is switched on in token views."""
    return {name: asked.get(name) == "1" for name in ("shift", "ids")}


def shown_of(asked: Mapping[str, str]) -> dict[str, str]:
    """The same, as parameters of an address."""
    return {name: "1" for name, on in switches_of(asked).items() if on}
