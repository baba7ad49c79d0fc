"""Token ids of 10,000 captions: the package's tokenizer, first and remembered, against CLIP's rules in plain Python.

    frames-matter bench tokens
    python bench/tokens.py [CAPTIONS]     default: 10,000 captions

With CLIP's own merges if ../shared has them, else nano's. The peer applies the merges one at a time. One thread
each, in turns, in one run. All must give the same ids; the run stops if they do not. The peer remembers words, as
CLIP's own does.
"""

import functools
import gzip
import html
import os
import random
import re
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"
import ftfy
import torch
from _measure import OURS, load, stage, write_record
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.base.files import project_root
from frames_matter.model.tokenizer import clip_tokenizer
from frames_matter.model.weights import ASSETS

ROUNDS, LENGTH, SEED = 3, 32, 0
CAPTIONS = 10_000
VOCABULARY = """
a the man woman young old person people dog cat child in on at of and with while then behind beside through
slowly quickly red blue green wooden bright snowy yard street kitchen table window playing running walking
holding cooking cutting wearing talking smiling camera shows close-up view background guitar's café joyous
abandon 12 3 owner wrestle chasing, microphone. demonstrates
"""
WORDS = VOCABULARY.split()
ENDINGS = [".", "!", "", " – très bien.", " 雪"]


def varied_captions(n: int) -> list[str]:
    "Sentences as long as AES captions, a few with signs that are not ASCII."
    rng = random.Random(SEED)
    texts = []
    for _ in range(n):
        sentence = " ".join(rng.choices(WORDS, k=rng.randrange(8, 30))).capitalize()
        texts.append(sentence + rng.choice(ENDINGS))
    return texts


def merges_file() -> Path:
    "CLIP's own merges where they are at hand, else nano's."
    of_clip = project_root().parent / "shared" / "viclip" / "bpe_simple_vocab_16e6.txt.gz"
    return of_clip if of_clip.is_file() else ASSETS / "nano_bpe.txt.gz"


def read_merges(path: Path) -> list[tuple[str, ...]]:
    "The merges of a BPE file, best first; CLIP uses as many as fill its vocabulary."
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    return [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1] if line]


def cleaned(text: str) -> str:
    "A caption as CLIP cleans it; what is plain ASCII needs no mending, here as in the package."
    if not text.isascii():
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


class PlainPeer:
    """The same merges, applied one at a time.

    It knows no special tokens in captions and no scripts beside ASCII's cases, which these captions do not need.
    """

    WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")

    def __init__(self, path: Path):
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves
        hidden = [b for b in range(256) if b not in shown]
        self.letter = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
        letters = list(self.letter.values())
        merges = read_merges(path)
        words = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges]
        self.id = {word: i for i, word in enumerate(words)}
        self.rank = {merge: i for i, merge in enumerate(merges)}
        self.start, self.end = len(self.id), len(self.id) + 1
        self.ids_of_word = functools.cache(self._ids_of_word)

    def _merged(self, parts: list[str], pair: tuple[str, str]) -> list[str]:
        "The parts of a word with every occurrence of a pair made one."
        merged, i = [], 0
        while i < len(parts):
            step = 2 if tuple(parts[i : i + 2]) == pair else 1
            merged.append("".join(parts[i : i + step]))
            i += step
        return merged

    def _ids_of_word(self, word: str) -> list[int]:
        "The ids of one word: the best merge is applied until none is left."
        parts = [self.letter[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = zip(parts, parts[1:], strict=False)
            best = min(pairs, key=lambda pair: self.rank.get(pair, float("inf")))
            if best not in self.rank:
                break
            parts = self._merged(parts, best)
        return [self.id[part] for part in parts]

    def __call__(self, texts: list[str], length: int) -> torch.Tensor:
        "Token ids (B, length): start, text, end, zeros."
        out = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(out, texts, strict=True):
            ids = [i for word in self.WORD.findall(cleaned(text)) for i in self.ids_of_word(word)]
            ids = [self.start, *ids][: length - 1] + [self.end]
            row[: len(ids)] = torch.tensor(ids)
        return out


def seconds_in_turns(path: Path, texts: list[str]) -> dict[str, list[float]]:
    "What each tokenizer took in each round; an error if they do not agree."
    times = {"tokenizers, first time": [], "tokenizers, remembered": [], "plain Python": []}
    for _ in range(ROUNDS):
        clip_tokenizer.cache_clear()
        ours, peer, ids = clip_tokenizer(path), PlainPeer(path), []
        for taken, tokenize in zip(times.values(), (ours, ours, peer), strict=True):
            start = time.perf_counter()
            ids.append(tokenize(texts, LENGTH))
            taken.append(time.perf_counter() - start)
        if not torch.equal(ids[0], ids[1]) or not torch.equal(ids[0], ids[2]):
            raise UserError("The tokenizers disagree: nothing to compare.")
    return times


def main(arguments: list[str]) -> None:
    "Measure, write the record where the number of captions is the default one, and print it."
    n, before = int(arguments[0]) if arguments else CAPTIONS, load()
    path = merges_file()
    times = seconds_in_turns(path, varied_captions(n))
    peer = {"plain Python": times["plain Python"]}
    stages = [
        stage(f"{n:,} captions to ids, the first time", {OURS: times["tokenizers, first time"]} | peer),
        stage(f"{n:,} captions to ids, again", {OURS: times["tokenizers, remembered"]} | peer),
    ]
    what = f"{LENGTH} ids a caption, {path.name}, one thread, {ROUNDS} rounds in turns"
    write_record("tokens", what, stages, ("tokenizers", "ftfy"), before, keep=not arguments)


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
