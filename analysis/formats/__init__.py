"""JSON that people can edit: written with a version number, read strictly, refused in one sentence.

A format is a frozen dataclass that inherits from `Stored`; groups of fields inside it inherit from `Checked`.
The annotations of the fields are all there is to say about types: msgspec holds the content of a file to
them, and the values that code passes in. Nothing is coerced, and no unknown field is passed over.

A sentence names the field as it stands in the file, `ratios.qk[2]`. One about the text as a whole begins
with "this", which `in_file` replaces by the name of the file.
"""

from analysis.formats.stored import Checked, Stored
from analysis.formats.text import MOST_BYTES, NotJson, dump, in_file, parse, read_text
from analysis.formats.typed import content, plain, typed

__all__ = [
    "MOST_BYTES",
    "Checked",
    "NotJson",
    "Stored",
    "content",
    "dump",
    "in_file",
    "parse",
    "plain",
    "read_text",
    "typed",
]
