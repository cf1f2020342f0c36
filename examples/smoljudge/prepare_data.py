"""Training questions for `smoljudge` from freely licensed packages, as JSONL that `relscope tune` reads.

    python prepare_data.py OUT [--packages FOLDER]

Fetches Debian packages with `apt-get download` and one wheel with `pip download`, or takes them from FOLDER:

| file | package | what | licence |
| --- | --- | --- | --- |
| wordnet.jsonl | wordnet-base 3.0 | a noun; its gloss; its sisters' glosses | WordNet 3.0 licence |
| foldoc.jsonl | dict-foldoc | a term of computing; its article; BM25 neighbours | GFDL 1.1+, no invariant sections |
| nations.jsonl | freeciv-data | a people; its history; BM25 neighbours | GPL 2+ |
| perlfaq.jsonl | perl-doc | a question; its answer; BM25 neighbours | Artistic or GPL 1+ |
| building.jsonl | zaragoza-construction-faq (a wheel) | a question; its answer; BM25 neighbours | CC BY 4.0 |

All draws are seeded: the same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relscope.data import Bm25

DEBIAN = ("wordnet-base", "dict-foldoc", "freeciv-data", "perl-doc")
WHEEL = "zaragoza-construction-faq==1.2.1"
N_NEGATIVES = 4
MAX_WORDS = 120
MIN_WORDS = 12

THING = (
    "what is {a}{w}", "What is {a}{w}?", "define {w}", "{w} definition", "what does {w} mean", "meaning of {w}",
    "what is the meaning of {w}", "{w}", "{w} meaning", "explain {w}", "what is {w}",
)  # fmt: skip
PERSON = ("who was {w}", "who is {w}", "Who was {w}?", "{w}", "what is {w} known for", "when did {w} live")
PLACE = ("where is {w}", "where is {w} located", "Where is {w}?", "{w} location", "what is {w}", "{w}")
PEOPLE = (
    "who were the {w}",
    "who are the {w}",
    "history of the {w}",
    "Where did the {w} live?",
    "the {w} people",
    "{w}",
)


@dataclass(frozen=True)
class Entry:
    """A query with the passage that answers it."""

    query: str
    passage: str


def main() -> None:
    """Write all sources into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", type=Path, help="folder with the .deb files and the wheel, instead of fetching")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        packages = arguments.packages or fetch(root / "packages")
        for name in DEBIAN:
            unpack(packages, name, root)
        write(arguments.out / "wordnet.jsonl", wordnet(root / "wordnet-base/usr/share/wordnet"))
        for name, entries in (
            ("foldoc", foldoc(root / "dict-foldoc/usr/share/dictd")),
            ("nations", nations(root / "freeciv-data")),
            ("perlfaq", perlfaq(root / "perl-doc")),
            ("building", building(packages)),
        ):
            write(arguments.out / f"{name}.jsonl", with_neighbours(list(entries)))


def fetch(folder: Path) -> Path:
    """Fetch the packages; needs Debian's apt-get, and pip."""
    folder.mkdir()
    for command in (["apt-get", "download", *DEBIAN], [sys.executable, "-m", "pip", "download", "--no-deps", WHEEL]):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def unpack(packages: Path, name: str, root: Path) -> None:
    """Unpack one Debian package into a folder of its name."""
    found = sorted(packages.glob(f"{name}_*.deb"))
    if not found:
        sys.exit(f"{packages}: there is no {name}_*.deb; fetch it with: apt-get download {name}")
    subprocess.run(["dpkg-deb", "-x", str(found[-1]), str(root / name)], check=True)


def write(path: Path, rows: Iterator[dict[str, object]]) -> None:
    """One JSON object a line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(lines)} questions")


def with_neighbours(entries: Sequence[Entry]) -> Iterator[dict[str, object]]:
    """Each entry with hard negatives: passages of other entries that BM25 ranks highest for its query."""
    passages = {str(i): entry.passage for i, entry in enumerate(entries)}
    bm25 = Bm25(passages)
    for i, entry in enumerate(entries):
        near = [n for n in bm25.rank(entry.query, 12) if n != str(i) and passages[n] != entry.passage]
        # A neighbour that holds the whole query may answer it too.
        apart = [n for n in near if entry.query.lower() not in passages[n].lower()]
        if negatives := [passages[n] for n in apart[:N_NEGATIVES]]:
            yield {"query": entry.query, "positive_document": entry.passage, "hard_negative_document": negatives}


def wordnet(folder: Path) -> Iterator[dict[str, object]]:
    """Familiar nouns and named things: the first sense of a word, against its sisters."""
    synsets: dict[str, tuple[str, str, list[str]]] = {}
    children: dict[str, list[str]] = {}
    lexnames: dict[str, str] = {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        n_words = int(fields[3], 16)
        word = fields[4].replace("_", " ")
        pointers = fields[5 + 2 * n_words :]
        parents = [pointers[i + 1] for i in range(len(pointers) - 1) if pointers[i] in ("@", "@i")]
        definition = re.split(r'; "', gloss.strip())[0].strip(" ;")
        kind = "instance" if "@i" in pointers else "class"
        synsets[fields[0]] = (word, definition, parents)
        lexnames[fields[0]] = f"{kind}:{fields[1]}"
        for parent in parents:
            children.setdefault(parent, []).append(fields[0])
    draw = random.Random(0)
    for key in sorted(familiar(folder / "index.noun", draw)):
        if key not in synsets:
            continue
        word, definition, parents = synsets[key]
        sisters = [s for parent in parents for s in children[parent] if s != key and synsets[s][0] != word]
        if len(definition.split()) < 6 or len(sisters) < 2:
            continue
        kind, _, lexname = lexnames[key].partition(":")
        forms = THING
        if kind == "instance":
            forms = {"18": PERSON, "15": PLACE}.get(lexname, THING[:1] + THING[7:8] + THING[-1:])
        article = ("an " if word[0] in "aeiou" else "a ") if kind == "class" and draw.random() < 0.6 else ""
        state = statement(draw, kind == "instance")
        chosen = draw.sample(sisters, min(N_NEGATIVES, len(sisters)))
        yield {
            "query": draw.choice(forms).format(w=word, a=article),
            "positive_document": state(word, definition),
            "hard_negative_document": [state(synsets[s][0], synsets[s][1]) for s in chosen],
        }


def familiar(index: Path, draw: random.Random) -> set[str]:
    """First senses of nouns that occur in tagged text, or have one sense only."""
    chosen: set[str] = set()
    for line in index.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        n_pointers = int(fields[3])
        n_senses, n_tagged, first = int(fields[4 + n_pointers]), int(fields[5 + n_pointers]), fields[6 + n_pointers]
        share = 0.25 if n_tagged else 0.06 if n_senses == 1 else 0.0
        if draw.random() < share and not any(c.isdigit() for c in fields[0]):
            chosen.add(first)
    return chosen


def statement(draw: random.Random, named: bool) -> Callable[[str, str], str]:
    """One of several ways to write a gloss as a passage; the same for a passage and those it stands against."""
    style = draw.randrange(4)

    def of(word: str, definition: str) -> str:
        title = word[0].upper() + word[1:]
        if style == 0:
            return f"{title}: {definition}."
        if style == 1:
            verb = "is" if named or re.match(r"(a|an|the|any|one|some)\b", definition) else "means"
            return f"{title} {verb} {definition}."
        if style == 2:
            return f"{title} - {definition}"
        return f"{title}. {definition[0].upper()}{definition[1:]}."

    return of


def foldoc(folder: Path) -> Iterator[Entry]:
    """Articles of the dictionary of computing: a headword on a line of its own, then indented text."""
    with gzip.open(folder / "foldoc.dict.dz", "rt", encoding="utf-8", errors="replace") as stream:
        text = stream.read()
    draw = random.Random(1)
    for match in re.finditer(r"^(\S[^\n]{1,40})\n(?:\S[^\n]*\n)*\n((?:   [^\n]*\n|\n)+)", text, re.M):
        word, body = match[1].strip(), match[2]
        body = re.sub(r"\{([^}]*)\}|\([0-9-]{10}\)|<[^>]*>", lambda m: m[1] or "", body)
        passage = cut(body)
        if passage and re.fullmatch(r"[A-Za-z][A-Za-z0-9 /+-]*", word) and draw.random() < 0.25:
            article = ("an " if word[0] in "aeiou" else "a ") if word.islower() and draw.random() < 0.5 else ""
            subject = passage if word.lower() in passage.lower()[:200] else f"{word}. {passage}"
            yield Entry(draw.choice(THING).format(w=word, a=article), subject)


def nations(folder: Path) -> Iterator[Entry]:
    """Peoples and their histories."""
    draw = random.Random(2)
    for path in sorted(folder.rglob("nation/*.ruleset")):
        text = path.read_text(encoding="utf-8", errors="replace")
        name = re.search(r'^plural\s*=\s*_\("(?:\?plural:)?([^"]+)"', text, re.M)
        legend = re.search(r'^legend\s*=\s*_\("((?:[^"\\]|\\.)*)"', text, re.M | re.S)
        if name and legend and (passage := cut(re.sub(r"\\\s*\n?", " ", legend[1]))):
            yield Entry(draw.choice(PEOPLE).format(w=name[1]), passage)


def perlfaq(folder: Path) -> Iterator[Entry]:
    """Questions and answers on programming."""
    for path in sorted(folder.rglob("perlfaq[1-9].pod")):
        for section in re.split(r"^=head2 ", path.read_text(encoding="utf-8", errors="replace"), flags=re.M)[1:]:
            question, _, answer = section.partition("\n")
            paragraphs = [p for p in answer.split("\n\n") if p.strip() and p[0] not in " \t="]
            plain = re.sub(r"[A-Z]<+\s*([^<>]*?)\s*>+", r"\1", "\n".join(paragraphs))
            if question.rstrip().endswith("?") and (passage := cut(plain)):
                yield Entry(re.sub(r"[A-Z]<+([^<>]*)>+", r"\1", question).strip(), passage)


def building(packages: Path) -> Iterator[Entry]:
    """Questions and answers on building permits, costs and trades."""
    wheels = sorted(packages.glob("zaragoza_construction_faq-*.whl"))
    if not wheels:
        sys.exit(f"{packages}: there is no zaragoza_construction_faq-*.whl; fetch it with: pip download {WHEEL}")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        lines = wheel.read("zaragoza_construction_faq/data/faq-en.jsonl").decode("utf-8").splitlines()
    for line in lines:
        record = json.loads(line)
        answer = re.sub(r"[^.!?]*Zaragoza[^.!?]*[.!?]", "", record["a"])
        if passage := cut(answer):
            yield Entry(record["q"].strip(), passage)


def cut(text: str) -> str:
    """A passage of whole sentences within the limits of length; empty if the text is too short."""
    words = text.split()
    if len(words) > MAX_WORDS:
        text = " ".join(words[:MAX_WORDS]) + " "
        words = (text[: text.rfind(". ") + 1] if ". " in text else text).split()
    return " ".join(words) if len(words) >= MIN_WORDS else ""


if __name__ == "__main__":
    main()
