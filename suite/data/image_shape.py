"""The height and width of an encoded image, from its first bytes."""

import io

from suite.errors import UserError

# Of JPEG's markers: the frames, which have the size, and those without a length behind them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN, _END = 0xDA, 0xD9


def image_shape(content: bytes) -> tuple[int, int]:
    """Return height and width in pixels as they are stored, not turned as EXIF says; zeros for no image.

    Raises UserError for formats other than JPEG and PNG where Pillow is not installed.
    """
    if content.startswith(b"\xff\xd8") and (shape := _jpeg_shape(content)) is not None:
        return shape
    if content.startswith(b"\x89PNG\r\n\x1a\n") and content[12:16] == b"IHDR":
        return int.from_bytes(content[20:24]), int.from_bytes(content[16:20])
    return _other_shape(content) if content else (0, 0)


def _jpeg_shape(content: bytes) -> tuple[int, int] | None:
    place = 2
    while (place := content.find(b"\xff", place)) >= 0 and place + 9 <= len(content):  # skips as libjpeg does
        marker = content[place + 1]
        if marker in _FRAMES:
            return int.from_bytes(content[place + 5 : place + 7]), int.from_bytes(
                content[place + 7 : place + 9]
            )
        if marker in (_SCAN, _END):
            break
        if marker in (0x00, 0xFF):  # no marker, and filling
            place += 1
        else:
            place += 2 + (0 if marker in _BARE else int.from_bytes(content[place + 2 : place + 4]))
    return None


def _other_shape(content: bytes) -> tuple[int, int]:
    try:
        from PIL import Image
    except ImportError:
        raise UserError("images other than JPEG and PNG need Pillow: install the extra `train`") from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0
