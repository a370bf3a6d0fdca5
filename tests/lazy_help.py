"""Records for the lazy data module, and a module that reads them."""

from pathlib import Path
from typing import Any

from loader_help import TILE, tokenizer

from neva_prep.loaders import ImageConfig, ImageDataConfig, NevaLazyDataModule


def row(number: int, image: Any = "a.jpg") -> dict[str, Any]:
    """A record in LLaVA's form."""
    return {
        "id": number,
        **({} if image is None else {"image": image}),
        "conversations": [
            {
                "from": "human",
                "value": ("" if image is None else "<image>\n") + f"Question {number}?",
            },
            {"from": "gpt", "value": f"{number}"},
        ],
    }


def lazy(paths: Any, beside: Path, **options: Any) -> NevaLazyDataModule:
    """A module of small pixels, whose images lie in `images` beside some path.

    `config` has settings of ImageDataConfig, the others are the module's.
    """
    config = {"val_fraction": 0.1, **options.pop("config", {})}
    settings: dict[str, Any] = {
        "tokenizer": tokenizer(),
        "image_processor": ImageConfig(size=TILE, output="uint8"),
        "num_workers": 0,
        "micro_batch_size": 2,
        "global_batch_size": 2,
        "num_image_embeddings_per_tile": 4,
        "pin_memory": False,
    }
    data_config = ImageDataConfig(image_folder=beside.parent / "images", **config)
    return NevaLazyDataModule(paths, data_config=data_config, **{**settings, **options})
