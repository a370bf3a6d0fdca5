"""Small sound records of every form that convert reads, and images for them."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

from convert_help import shared
from handmade import picture

IMAGES = {
    "a.jpg": picture(24, 16),
    "b.png": picture(20, 10, "PNG"),
    "c.webp": picture(8, 6, "WEBP"),
    "d.gif": picture(9, 7, "GIF"),
    "e.bmp": picture(5, 4, "BMP"),
    "sub/f.tif": picture(6, 5, "TIFF"),
}
_EMBEDDED = "data:image/png;base64," + base64.b64encode(IMAGES["b.png"]).decode()


def _llava(number: int, image: Any = "a.jpg", mark: str = "<image>\n", **more: Any) -> Any:
    talk = [
        {"from": "human", "value": f"{mark}What is {number}?"},
        {"from": "gpt", "value": f"It is {number}. é😀"},
    ]
    return {"id": f"id-{number}", "image": image, "conversations": talk, **more}


def _parts(*urls: str) -> list[Any]:
    return [
        *({"type": "image_url", "image_url": {"url": url}} for url in urls),
        {"type": "text", "text": "What is it?"},
    ]


ROWS: dict[str, list[Any]] = {
    "llava": [
        _llava(0),
        _llava(1, ["b.png", "c.webp"], "<image> or <image>? "),
        {k: v for k, v in _llava(2, mark="").items() if k != "image"},
        _llava(3, "sub/f.tif", score=1.10, meta={"deep": [1, None]}),
        {
            **_llava(4, "d.gif"),
            "conversations": [
                {"from": "system", "value": "Be brief."},
                *_llava(4)["conversations"],
                {"from": "human", "value": "Sure?"},
                {"from": "gpt", "value": "<image> is a mark."},
            ],
        },
    ],
    "sharegpt": [
        {
            "id": 7,
            "system": "Be brief.",
            "images": ["a.jpg"],
            "conversations": [
                {"from": "user", "value": "<|image|>What?"},
                {"from": "assistant", "value": "A ring."},
            ],
        },
        {"image": "e.bmp", "conversations": _llava(1, mark="<image1>")["conversations"]},
        {"image": {"path": "b.png"}, "conversations": _llava(2)["conversations"]},
        {"image": _EMBEDDED, "conversations": _llava(3)["conversations"]},
    ],
    "messages": [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": _parts("a.jpg", "b.png")},
                {"role": "assistant", "content": [{"type": "text", "text": "Rings."}]},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": _parts(_EMBEDDED)},
                {"role": "assistant", "content": "A ring."},
            ],
        },
        {
            "images": ["c.webp"],
            "messages": [
                {"role": "user", "content": [{"type": "image", "index": 0}, "What?"]},
                {"role": "model", "content": "A ring.", "weight": 1},
            ],
        },
        {
            "conversation": [
                {"role": "user", "content": "<image>What?"},
                {"role": "assistant", "content": "A ring."},
            ],
            "images": [{"bytes": None, "path": "d.gif"}],
        },
    ],
    "pairs": [
        {"images": ["a.jpg"], "conversation": [{"human": "<image>What?", "assistant": "That."}]},
    ],
    "qwen-vl": [
        {
            "id": "q",
            "conversations": [
                {"from": "user", "value": "Picture 1: <img>a.jpg</img>\n<img>b.png</img>What?"},
                {"from": "assistant", "value": "A <ref>ring</ref><box>(1,2),(3,4)</box>."},
            ],
        }
    ],
    "xcomposer": [
        {
            "id": "x",
            "image": ["a.jpg"],
            "conversations": _llava(1, mark="<ImageHere> ")["conversations"],
        }
    ],
    "alpaca": [
        {"instruction": "What?", "input": "This.", "output": "That.", "images": ["a.jpg"]},
        {"instruction": "Why?", "output": "So.", "system": "Hm.", "history": [["Q", "A"]]},
    ],
    "query": [
        {"query": "<image>What?", "response": "That.", "images": ["b.png"], "history": []},
        {"query": "And?", "response": "No.", "history": [["One?", "Yes."]]},
    ],
    "vqa": [
        {"image": "a.jpg", "question": "What?", "answers": ["a", "b", "b"], "question_id": 5},
        {"image_path": "b.png", "question": "How many?", "answer": 3},
        {"image": "c.webp", "prompt": "What?", "completion": "That."},
    ],
    "captions": [
        {"image": "a.jpg", "caption": "A ring."},
        {"image": "sub/f.tif", "caption": "Zwei Ringe.", "id": 4},
    ],
    "obelics": [
        {"images": [None, "a.jpg", "b.png"], "texts": ["One.", None, None], "metadata": "[]"},
        {"images": ["c.webp", None], "texts": [None, "Two."], "general_metadata": "{}"},
    ],
    "mmc4": [
        {
            "url": "http://x/",
            "text_list": ["One.", "Two."],
            "image_info": [
                {"image_name": "b.png", "matched_text_index": 1, "matched_sim": 0.3},
                {"image_name": "a.jpg", "matched_text_index": 0, "matched_sim": 0.2},
            ],
            "similarity_matrix": [[0.1, 0.3], [0.2, 0.15]],
        }
    ],
    "video": [
        {**_llava(0), "video": "clip.mp4"},
        {"videos": ["clip.mp4"], "messages": [{"role": "user", "content": "<video>What?"}]},
    ],
    "preferences": [{"chosen": [{"role": "user", "content": "x"}], "rejected": []}],
    "wrapped": [
        {"annotations": [{"image_id": 1, "caption": "A ring."}], "images": [{"id": 1}]},
    ],
}
"""Form -> records."""
DOCUMENTS = frozenset({"obelics", "mmc4"})
"""Forms that only the layouts of documents take."""


@cache
def real_rows() -> list[list[Any]]:
    """A few short records of each real JSON source; none in a plain clone."""
    root = shared("data")
    return (
        []
        if root is None
        else [rows for path in sorted(root.rglob("*.json*")) if (rows := _some(path))]
    )


def _some(path: Path) -> list[Any]:
    if path.stat().st_size > 4 << 20:
        return []
    text = path.read_text("utf-8", "replace")
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines()[:4] if line.strip()]
        except ValueError:
            return []
    rows = found if isinstance(found, list) else [found]
    return [row for row in rows[:4] if len(json.dumps(row)) < 4096]
