"""How is a text file read so that whatever is wrong with it is told with its file, line and field?

Lines are split at line feeds only (JSON strings may hold U+2028 and the like), read one at a time, and must
be UTF-8; a byte order mark is tolerated, and so is gzip when the name ends in `.gz`.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relscope.errors import InputError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without its line end) for every line that is not blank.

    Raises:
        InputError: the file can't be opened or read, is a damaged gzip file, or is not UTF-8.
    """
    offset = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                text = _decode(raw, path, number, offset)
                offset += len(raw)
                if text.strip():
                    yield number, text.rstrip("\r\n")
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read ({reason})") from error


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a file with one JSON object a line.

    Raises:
        InputError: as `read_lines`, or a line that is not a JSON object.
    """
    for number, text in read_lines(path):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({error.msg} at character {error.colno}); "
                "each line must be one JSON object"
            ) from error
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits; 100,000 nested brackets
            raise InputError(f"{path}, line {number}: JSON that cannot be read ({error})") from error
        if not isinstance(value, dict):
            raise InputError(
                f"{path}, line {number}: holds a JSON {json_type(value)}; each line must be one JSON object"
            )
        yield number, value


def string_field(record: dict[str, Any], field: str, path: Path, number: int) -> str:
    """The string at `field` of the record at line `number`; InputError if it is missing or something else."""
    if field not in record:
        raise InputError(f'{path}, line {number}: field "{field}" is missing; it must be a string')
    value = record[field]
    if not isinstance(value, str):
        raise InputError(f'{path}, line {number}, field "{field}": must be a string, but is a JSON {json_type(value)}')
    return value


def integer(text: str, what: str, path: Path, number: int) -> int:
    """The whole number written in a column; InputError naming the column as `what` if it is none."""
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f'{path}, line {number}: {what} must be a whole number, not "{shorten(text)}"') from error


def existing(folder: Path, *names: str) -> list[Path]:
    """Those of the file names, plain or with `.gz` added, that are files in the folder."""
    candidates = [folder / (name + suffix) for name in names for suffix in ("", ".gz")]
    return [path for path in candidates if path.is_file()]


def json_type(value: object) -> str:
    """What JSON calls the type of a parsed value."""
    names: dict[type, str] = {
        dict: "object",
        list: "list",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return names[type(value)]


def shorten(text: str, width: int = 60) -> str:
    """The beginning of a text, for an error message of one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _decode(raw: bytes, path: Path, number: int, offset: int) -> str:
    if number == 1 and raw.startswith(codecs.BOM_UTF8):
        raw, offset = raw.removeprefix(codecs.BOM_UTF8), offset + len(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: byte {offset + error.start} of the file is not UTF-8 ({error.reason}); "
            "save the file with the encoding UTF-8"
        ) from error
