"""Token ids of 10,000 captions: the package's tokenizer, first and remembered, against CLIP's rules a merge at a time in plain Python, one thread each, in turns, in one run.

    frames-matter bench tokens
    python bench/tokens.py [CAPTIONS]     default: 10,000 captions with CLIP's own merges if ../shared has them, else nano's

All must give the same ids; the run stops if they do not. The peer remembers words, as CLIP's own does.
"""

import functools
import gzip
import json
import os
import platform
import random
import re
import statistics
import sys
import time
from importlib import metadata

os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"
import torch

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write, project_root
from frames_matter.model.tokenizer import _byte_letters, _clean, clip_tokenizer
from frames_matter.model.weights import ASSETS

ROUNDS, LENGTH, SEED = 3, 32, 0
WORDS = [
    "a",
    "the",
    "man",
    "woman",
    "young",
    "old",
    "person",
    "people",
    "dog",
    "cat",
    "child",
    "in",
    "on",
    "at",
    "of",
    "and",
    "with",
    "while",
    "then",
    "behind",
    "beside",
    "through",
    "slowly",
    "quickly",
    "red",
    "blue",
    "green",
    "wooden",
    "bright",
    "snowy",
    "yard",
    "street",
    "kitchen",
    "table",
    "window",
    "playing",
    "running",
    "walking",
    "holding",
    "cooking",
    "cutting",
    "wearing",
    "talking",
    "smiling",
    "camera",
    "shows",
    "close-up",
    "view",
    "background",
    "guitar's",
    "café",
    "joyous",
    "abandon",
    "12",
    "3",
    "owner",
    "wrestle",
    "chasing,",
    "microphone.",
    "demonstrates",
]


def captions(n):
    "Varied sentences, as long as AES captions, a few with signs that are not ASCII."
    rng = random.Random(SEED)
    return [
        " ".join(rng.choices(WORDS, k=rng.randrange(8, 30))).capitalize()
        + rng.choice([".", "!", "", " – très bien.", " 雪"])
        for _ in range(n)
    ]


def merges_file():
    clips = project_root().parent / "shared" / "viclip" / "bpe_simple_vocab_16e6.txt.gz"
    return clips if clips.is_file() else ASSETS / "nano_bpe.txt.gz"


class PlainPeer:
    "The same merges, applied one at a time. It knows no special tokens in captions and no scripts beside ASCII's cases, which these captions do not need."

    WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")

    def __init__(self, path):
        letters = _byte_letters()
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        self.letter = dict(zip(shown + [b for b in range(256) if b not in shown], letters))
        merges = [
            tuple(line.split())
            for line in gzip.open(path, "rt", encoding="utf-8").read().split("\n")[1 : 49152 - 256 - 2 + 1]
            if line
        ]
        self.id = {w: i for i, w in enumerate(letters + [x + "</w>" for x in letters] + ["".join(m) for m in merges])}
        self.rank, self.end = {m: i for i, m in enumerate(merges)}, len(self.id) + 1
        self.ids = functools.lru_cache(None)(self._ids)

    def _ids(self, word):
        parts = [self.letter[b] for b in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda p: self.rank.get(p, float("inf")))
            if best not in self.rank:
                break
            new, i = [], 0
            while i < len(parts):
                step = 2 if tuple(parts[i : i + 2]) == best else 1
                new.append("".join(parts[i : i + step]))
                i += step
            parts = new
        return [self.id[p] for p in parts]

    def __call__(self, texts, length):
        out = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(out, texts):
            ids = [self.end - 1, *(i for word in self.WORD.findall(_clean(text)) for i in self.ids(word))][
                : length - 1
            ] + [self.end]
            row[: len(ids)] = torch.tensor(ids)
        return out


def main():
    n, path = int(sys.argv[1]) if sys.argv[1:] else 10_000, merges_file()
    texts, times = captions(n), {"tokenizers, first time": [], "tokenizers, remembered": [], "plain Python": []}
    for _ in range(ROUNDS):
        clip_tokenizer.cache_clear()
        ours, peer, ids = clip_tokenizer(path), PlainPeer(path), []
        for name, tokenize in zip(times, (ours, ours, peer)):
            start = time.perf_counter()
            ids.append(tokenize(texts, LENGTH))
            times[name].append(time.perf_counter() - start)
        if not torch.equal(ids[0], ids[1]) or not torch.equal(ids[0], ids[2]):
            raise UserError("The tokenizers disagree: nothing to compare.")
    rows = {
        name: {"median_s": round(statistics.median(t), 3), "captions_per_s": round(n / statistics.median(t))}
        for name, t in times.items()
    }
    record = {
        "command": "frames-matter bench tokens",
        "what": f"{n} captions to {LENGTH} ids, {path.name}, {ROUNDS} rounds in turns, one thread",
        "tokenizers": rows,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("tokenizers", "ftfy")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if not sys.argv[1:]:
        atomic_write(project_root() / "results" / "bench" / "tokens.json", json.dumps(record, indent=1) + "\n")
    print(record["what"])
    for name, row in rows.items():
        print(f"{name:24} {row['median_s']:8.3f} s  {row['captions_per_s']:9,} captions a second")


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(print(e, file=sys.stderr) or 2)
