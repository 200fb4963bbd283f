"""The image store: whole, upright, RGB, small, named by content, nothing of the person in it."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtune.data.imagestore import ImageStore, Picture, locate, state_hash
from medtune.data.rejections import Rejected
from medtune.images import ImageError, upright_rgb

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_colours(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left half, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def stored(store: ImageStore, path: Path) -> Path:
    picture = Picture(path.name, path)
    store.add([picture])
    return store.root / store.get(picture).name


def test_exif_rotation_is_applied_and_no_metadata_survives(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    exif[0x010F] = "a camera's name"
    (tmp_path / "a.jpg").write_bytes(
        encoded(two_colours(), "JPEG", exif=exif, icc_profile=b"a scanner's profile", quality=95)
    )
    path = stored(ImageStore(tmp_path / "out", 512), tmp_path / "a.jpg")
    with Image.open(path) as image:
        assert image.size == (20, 40) and not image.getexif() and not image.info
        top = image.getpixel((10, 5))
        assert isinstance(top, tuple) and top[0] > 200 > top[2]
    assert b"camera" not in path.read_bytes() and b"scanner" not in path.read_bytes()


def test_the_long_edge_is_scaled_down_and_small_images_are_left_alone() -> None:
    assert upright_rgb(encoded(two_colours(400, 100)), 200).size == (200, 50)
    assert upright_rgb(encoded(two_colours(40, 20)), 200).size == (40, 20)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert upright_rgb(encoded(two_colours().convert(mode), kind), 512).mode == "RGB"


def test_transparent_paper_is_white_not_black() -> None:
    assert upright_rgb(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0))), 512).getpixel((0, 0)) == (255, 255, 255)


def test_a_16_bit_film_keeps_its_greys() -> None:
    film = Image.fromarray(np.linspace(2000, 4000, 256, dtype=np.uint16).reshape(16, 16))
    grey = np.asarray(upright_rgb(encoded(film), 512))[..., 0]
    assert grey.min() == 0 and grey.max() == 255 and len(np.unique(grey)) > 200


@pytest.mark.parametrize("cut", [0, 20, 300])
def test_an_image_that_does_not_decode_to_its_end_is_broken(cut: int) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    with pytest.raises(ImageError):
        upright_rgb(encoded(noise)[:cut], 512)


def test_an_image_too_long_for_the_processor_is_rejected() -> None:
    with pytest.raises(ImageError, match="longer than 200 times"):
        upright_rgb(encoded(Image.new("RGB", (1000, 4))), 512)


def test_an_image_that_is_too_long_only_once_it_is_scaled_is_rejected_too() -> None:
    assert upright_rgb(encoded(Image.new("RGB", (10000, 51))), 10000).size == (10000, 51)
    with pytest.raises(ImageError, match=r"10000 x 51 pixels, 256 x 1 where it is kept: longer than 200 times"):
        upright_rgb(encoded(Image.new("RGB", (10000, 51))), 256)


def test_the_same_pixels_are_one_file_whatever_their_format_and_name(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "out", 512)
    (tmp_path / "a.png").write_bytes(encoded(two_colours()))
    (tmp_path / "b.bmp").write_bytes(encoded(two_colours(), "BMP"))
    assert stored(store, tmp_path / "a.png") == stored(store, tmp_path / "b.bmp")
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 1


def test_two_files_of_the_same_name_in_two_folders_are_two_images(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "out", 512)
    for folder, colour in (("x", RED), ("y", BLUE)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(encoded(Image.new("RGB", (8, 8), colour)))
    assert stored(store, tmp_path / "x" / "1.png") != stored(store, tmp_path / "y" / "1.png")


def test_a_data_address_is_decoded_and_a_broken_one_rejected(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "out", 512)
    address = "data:image/png;base64," + base64.b64encode(encoded(two_colours())).decode()
    good, bad, plain = (locate(text, [tmp_path]) for text in (address, "data:image/png;base64,AA!A", "data:,x"))
    store.add([good, bad, plain])
    assert (store.root / store.get(good).name).exists()
    for picture in (bad, plain):
        with pytest.raises(Rejected) as fault:
            store.get(picture)
        assert fault.value.reason == "image_broken"


def test_a_missing_file_and_a_web_address_have_their_own_reasons(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "out", 512)
    missing = locate("gone.png", [tmp_path])
    store.add([missing])
    with pytest.raises(Rejected) as fault:
        store.get(missing)
    assert fault.value.reason == "image_missing"
    with pytest.raises(Rejected) as fault:
        locate("https://example.org/a.png", [tmp_path])
    assert fault.value.reason == "image_url"


def test_base64_without_its_prefix_is_a_missing_file_and_no_crash(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "out", 512)
    picture = locate("iVBORw0KGgo" * 1000, [tmp_path])
    store.add([picture])
    with pytest.raises(Rejected) as fault:
        store.get(picture)
    assert fault.value.reason == "image_missing"


@pytest.mark.parametrize("name", ["a\0.png", "file://[bad", "file:a%00.png", "~nobody-here/x.png", "~"])
def test_a_name_no_file_can_have_is_a_missing_image_and_no_crash(tmp_path: Path, name: str) -> None:
    store = ImageStore(tmp_path / "out", 512)
    with pytest.raises(Rejected) as fault:
        picture = locate(name, [tmp_path])
        store.add([picture])
        store.get(picture)
    assert fault.value.reason == "image_missing"


def test_images_are_found_beside_the_file_in_the_source_folder_or_in_images(tmp_path: Path) -> None:
    for name in ("deep/beside.png", "images/inside.png", "top.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folders = [tmp_path / "deep", tmp_path]
    for name in ("beside.png", "inside.png", "top.png", f"file://{tmp_path}/top.png", str(tmp_path / "top.png")):
        found = locate(name, folders).path
        assert found and found.is_file(), name


def test_an_unchanged_image_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded(two_colours()))
    first = ImageStore(tmp_path / "out", 512)
    path = stored(first, tmp_path / "a.png")
    first.close([f"images/{path.name}"])
    monkeypatch.setattr("medtune.data.imagestore.upright_rgb", lambda *_: pytest.fail("decoded again"))
    assert stored(ImageStore(tmp_path / "out", 512), tmp_path / "a.png") == path


def test_the_state_changes_with_a_source_image_its_size_limit_or_a_lost_copy(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(two_colours()))
    store = ImageStore(tmp_path / "out", 512)
    path = stored(store, tmp_path / "a.png")
    store.close([f"images/{path.name}"])
    state = state_hash(store.root, 512)
    assert state == state_hash(store.root, 512) != state_hash(store.root, 256)
    os.utime(tmp_path / "a.png", (1, 1))
    assert (moved := state_hash(store.root, 512)) != state
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert (broken := state_hash(store.root, 512)) not in (state, moved)
    path.unlink()
    assert state_hash(store.root, 512) == broken


def test_images_no_record_shows_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(two_colours()))
    store = ImageStore(tmp_path / "out", 512)
    path = stored(store, tmp_path / "a.png")
    store.close([])
    assert not path.exists()


def test_a_stored_copy_that_was_broken_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(two_colours()))
    first = ImageStore(tmp_path / "out", 512)
    path = stored(first, tmp_path / "a.png")
    first.close([f"images/{path.name}"])
    whole = path.read_bytes()
    for damage in (b"", b"no image", whole[:-20], whole.replace(b"IDAT", b"IDAT\0", 1)):
        path.write_bytes(damage)
        assert stored(ImageStore(tmp_path / "out", 512), tmp_path / "a.png").read_bytes() == whole


def test_only_what_a_run_put_there_is_ever_removed(tmp_path: Path) -> None:
    own = tmp_path / "out" / "images" / "family.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(encoded(Image.new("RGB", (8, 8))))
    address = "data:image/png;base64," + base64.b64encode(encoded(two_colours())).decode()
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (8, 8), RED)))
    first = ImageStore(tmp_path / "out", 512)
    first.add([inside := locate(address, []), beside := locate("a.png", [tmp_path])])
    names = [first.get(inside).name, first.get(beside).name]
    first.close(names)
    assert all((first.root / name).exists() for name in names) and own.exists()
    ImageStore(tmp_path / "out", 64).close([])  # listed before, under another limit
    assert list(own.parent.glob("*.png")) == [own]


def test_what_a_run_that_never_closed_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, colour in (("a.png", RED), ("b.png", BLUE)):
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (8, 8), colour)))
    killed = ImageStore(tmp_path / "out", 512)
    stored(killed, tmp_path / "a.png")
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("killed while it writes"))
    with pytest.raises(pytest.fail.Exception):
        stored(killed, tmp_path / "b.png")
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 2
    ImageStore(tmp_path / "out", 512).close([])
    assert [path.name for path in (tmp_path / "out" / "images").iterdir()] == [".index.jsonl"]
