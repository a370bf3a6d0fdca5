"""The image folder gives whole images, or says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from neva_prep.dataprep.stores.store import read_image
from neva_prep.errors import ImageError
from neva_prep.loaders.image_folder import ImageFolder


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 70_000])
def test_an_image_is_read_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image").write_bytes(content)
    assert read_image(ImageFolder(str(tmp_path)), "image") == content


@pytest.mark.parametrize(("said", "content"), [(3000, b"x" * 10), (10, b"x" * 3000), (0, b"x")])
def test_a_file_whose_size_changes_meanwhile_is_noticed(
    tmp_path: Path, said: int, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "image").write_bytes(content)
    folder = ImageFolder(str(tmp_path))
    opened = folder.open
    monkeypatch.setattr(folder, "open", lambda path: (opened(path)[0], said))
    with pytest.raises(ImageError, match=f"had {said:,} bytes and then") as caught:
        read_image(folder, "image")
    assert caught.value.reason == "truncated_image"
