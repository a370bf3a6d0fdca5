"""Puts the images of a sample where its texts have their marks.

`neva-prep convert --layout interleaved` and `--layout similarity` copy this file into the dataset.
There energon runs it, because a `field_map` names one member for a field and never a list of them.
neva-prep itself runs no file of a dataset: it knows this text, and calls its own copy.
"""

from __future__ import annotations

from typing import Any

MARK = "<image>"


def part_filter(part: str) -> bool:
    """Every member is needed."""
    return True


def interleaved(sample: dict[str, Any]) -> dict[str, Any]:
    """Fields of an InterleavedSample: texts and images in their order, no empty text."""
    record: dict[str, Any] = sample["json"]
    sequence: list[Any] = []
    shown = 0
    for turn in record["conversations"]:
        for place, text in enumerate(turn["value"].split(MARK)):
            if place:
                sequence.append(sample[record["images"][shown]["name"]])
                shown += 1
            if text:
                sequence.append(text)
    return {"sequence": sequence}


def similarity(sample: dict[str, Any]) -> dict[str, Any]:
    """Fields of a SimilarityInterleavedSample: each image stands before the text it matches."""
    import torch

    record: dict[str, Any] = sample["json"]
    texts: list[str] = []
    places: list[int] = []
    for turn in record["conversations"]:
        if turn["value"] == MARK:
            places.append(len(texts))
        else:
            texts.append(turn["value"])
    matrix = record.get("similarity_matrix")
    return {
        "images": [sample[image["name"]] for image in record["images"]],
        "texts": texts,
        "matched_text_indices": places,
        "similarity_matrix": None if matrix is None else torch.tensor(matrix),
    }
