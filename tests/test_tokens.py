"""CLIP's ids for any Unicode text: the tokenizers library against a plain reading of the same rules, written here.

`python tests/test_tokens.py` writes tests/golden/nano_tokens.json anew with the plain one.
"""

import gzip
import html
import json
import random
import re
import sys
import time
import unicodedata
from pathlib import Path

import ftfy
import pytest
import torch

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.model.bundle import load
from frames_matter.model.tokenizer import _clean, clip_tokenizer, cut_captions, tell_of_cut_captions, tokenizer_for
from frames_matter.model.weights import load_viclip
from frames_matter.study.splits import encode_captions

ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT.parent / "shared" / "viclip" / "bpe_simple_vocab_16e6.txt.gz"  # CLIP's own, where it is: an extra
LISTS = {"nano": ROOT / "frames_matter" / "assets" / "nano_bpe.txt.gz"} | ({"clip": CLIP} if CLIP.is_file() else {})


@pytest.fixture(scope="module", params=LISTS)
def bpe(request):
    "A list of merges."
    return LISTS[request.param]


@pytest.fixture(scope="module")
def plain(bpe):
    return Plain(bpe)


class Plain:
    """CLIP's tokenizer as its rules say it, a character at a time and a merge at a time.

    Slow, and nothing but the standard library and ftfy.
    """

    def __init__(self, path):
        lines = gzip.decompress(Path(path).read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
        merges = [tuple(line.split()) for line in lines if line]
        shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
        self.letter = {b: chr(b) for b in shown}
        for b in range(256):
            if b not in self.letter:
                self.letter[b] = chr(256 + len(self.letter) - len(shown))
        letters = list(self.letter.values())
        self.id = {
            w: i
            for i, w in enumerate(
                letters
                + [x + "</w>" for x in letters]
                + ["".join(m) for m in merges]
                + ["<|startoftext|>", "<|endoftext|>"]
            )
        }
        self.rank = {m: i for i, m in enumerate(merges)}

    def words(self, text):
        """The first that fits, from the left.

        Specials, 's 't 're 've 'm 'll 'd, runs of letters, single numerals, runs of anything else that is not space.
        """

        def kind(c):
            category = unicodedata.category(c)[0]
            return "space" if c.isspace() else category if category in "LN" else "other"

        folded, i = text.replace("ſ", "s"), 0  # the pattern ignores case, and ſ is a case of s
        while i < len(text):
            fixed = next(
                (
                    w
                    for w in ("<|startoftext|>", "<|endoftext|>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
                    if folded.startswith(w, i)
                ),
                None,
            )
            k, end = kind(text[i]), i + 1
            if fixed:
                end = i + len(fixed)
            elif k in ("L", "other"):
                while end < len(text) and kind(text[end]) == k:
                    end += 1
            if fixed or k != "space":
                yield text[i:end]
            i = end

    def merge(self, word):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            best = min(zip(parts, parts[1:], strict=False), key=lambda p: self.rank.get(p, 1e9))
            if best not in self.rank:
                break
            new, i = [], 0
            while i < len(parts):
                pair = tuple(parts[i : i + 2]) == best
                new.append("".join(parts[i : i + 2]) if pair else parts[i])
                i += 2 if pair else 1
            parts = new
        return parts

    def __call__(self, text, length):
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = re.sub(r"\s+", " ", text).strip().lower()
        start, end = self.id["<|startoftext|>"], self.id["<|endoftext|>"]
        ids = [start]
        for word in self.words(text):
            if word in ("<|startoftext|>", "<|endoftext|>"):
                ids.append(self.id[word])
            else:
                ids += [self.id[p] for p in self.merge("".join(self.letter[b] for b in word.encode()))]
        ids.append(end)
        if len(ids) > length:
            ids = ids[: length - 1] + [end]
        return ids + [0] * (length - len(ids))


def ids_of(caption, plain):
    return {"caption": caption} | {f"ids_{length}": plain(caption, length) for length in (32, 77)}


def captions_to_store():
    "CLIP's own cases, captions of the mini world, and what is odd."
    cases = json.loads((ROOT / "tests" / "golden" / "clip_tokens.json").read_text())
    return [case["caption"] for case in cases] + [
        "A red star moves left past a blue ring.",
        "a small green square, then a large yellow circle",
        "Three dots appear; two vanish!",
        "the camera pans slowly to the right over a striped background",
        "it's what they've said: we'll see, I'd bet you're right, I'm sure",
        "SHOUTED   with\ttabs\nand lines",
        "",
        " ",
        "!?...",
        "'s 't 're 've 'm 'll 'd",
        "a&amp;b &lt;c&gt; &amp;quot;d&amp;quot;",
        "caf\u00e9 na\u00efve \u00fcber \u00c5ngstr\u00f6m",
        "\u96ea\u306e\u4e2d\u306e\u72ac",
        "\U0001f415 in the \u2744\ufe0f snow",
        "1234 frames at 23.976 fps",
        "<|startoftext|> a caption that spells <|endoftext|> out",
        "word " * 60,
    ]


# The test's letters are those of this Python's Unicode tables; a library with newer ones knows scripts not yet there.
CHARACTERS = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


def assert_same(tokenize, plain, texts, length=77):
    found = tokenize(texts, length).tolist()
    wrong = [(t, f, p) for t, f in zip(texts, found, strict=True) if f != (p := plain(t, length))]
    assert not wrong, f"{len(wrong)} of {len(texts)}, first: {wrong[0]}"


def test_the_plain_tokenizer_is_clips(golden, shared):
    plain = Plain(shared / "viclip" / "bpe_simple_vocab_16e6.txt.gz")
    for case in json.loads((golden / "clip_tokens.json").read_text()):
        for length in (32, 77):
            assert plain(case["caption"], length) == case[f"ids_{length}"]


def test_the_plain_tokenizer_is_what_wrote_the_stored_ids(golden):
    plain = Plain(LISTS["nano"])
    assert json.loads((golden / "nano_tokens.json").read_text()) == [ids_of(c, plain) for c in captions_to_store()]


def test_every_character_by_itself_and_between_letters(bpe, plain):
    texts = ["".join(CHARACTERS[i : i + 12]) for i in range(0, len(CHARACTERS), 12)]
    assert_same(clip_tokenizer(bpe), plain, random.Random(0).sample(texts, 3000), 128)
    for block in (range(0x250), range(0x2000, 0x2C00), range(0xFB00, 0xFFFE)):
        known = [chr(c) for c in block if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
        assert_same(clip_tokenizer(bpe), plain, [f"a{c}b{c}{c}1{c}'s" for c in known])


ODD_PIECES = [
    *("'s", "'S", "'ſ", "'re", "'ll "),  # contractions, which are words of their own
    *("<|startoftext|>", "<|endoftext|>", "!<|endoftext|>", "<|ſtartoftext|>", "<|STARTOFTEXT|>"),  # specials
    *("&amp;", "&amp;lt;", "&#28;", "&#xD800;"),  # HTML, escaped twice too
    *("Ã©", "â€™"),  # UTF-8 read as another encoding
    *("…", "\u200b", "\u00a0", "\u3000", "\x85", "\t\n"),  # an ellipsis, and spaces of other kinds
    *("ﬁ", "ǅ", "İ", "Σς", "ß", "K", "１２³Ⅷ½", "é", "e\u0301"),  # letters and numerals that have other forms
    *("👩‍👩‍👧", "🇨🇭"),  # characters of several code points
    *("สวัสดี", "नमस्ते", "雪の中の犬", "العربية", "שלום"),  # scripts
    *("a dog", "Running", "!!!", "...", "x" * 40),  # what is not odd
]


def draw_piece(rng):
    "An odd piece, any character, one of the first few hundred, or a plain letter."
    if rng.random() < 0.4:
        return rng.choice(ODD_PIECES)
    if rng.random() < 0.5:
        return rng.choice(CHARACTERS)
    if rng.random() < 0.5:
        return chr(rng.randrange(32, 0x250))
    return rng.choice(" abcdefghijklmnopqrstuvwxyz")


def test_random_unicode(bpe, plain):
    rng = random.Random(1)
    texts = ["".join(draw_piece(rng) for _ in range(rng.randrange(0, 40))) for _ in range(2500)]
    assert_same(clip_tokenizer(bpe), plain, texts, 200)


def test_words_that_merge_in_many_orders(bpe, plain):
    "Pieces of the vocabulary run together: where the order of merges could matter."
    rng, words = random.Random(2), [w.removesuffix("</w>") for w in list(plain.id)[512:-2]]
    words = [w for w in words if w.isascii() and w.isalpha()]
    assert_same(
        clip_tokenizer(bpe),
        plain,
        [" ".join("".join(rng.choices(words, k=rng.randrange(1, 6))) for _ in range(3)) for _ in range(4000)],
        128,
    )
    assert_same(
        clip_tokenizer(bpe),
        plain,
        [
            "".join(rng.choices(letters, k=rng.randrange(1, 30)))
            for letters in ("ab", "aeo", "the", "!?.", "hahe", "lo")
            for _ in range(400)
        ],
        128,
    )


def test_ten_thousand_captions_in_seconds(bpe):
    clip_tokenizer.cache_clear()
    rng = random.Random(3)
    words = [
        "a",
        "man",
        "woman",
        "dog",
        "in",
        "on",
        "the",
        "snow",
        "red",
        "runs",
        "slowly",
        "past",
        "behind",
        "café",
        "playing",
        "guitar's",
        "12",
        "people,",
        "while",
        "another",
    ]
    captions = [" ".join(rng.choices(words, k=rng.randrange(8, 40))) for _ in range(10_000)]
    tokenize, start = clip_tokenizer(bpe), time.perf_counter()
    first = tokenize(captions)
    took, start = time.perf_counter() - start, time.perf_counter()
    again = tokenize(captions)
    assert took < 10 and time.perf_counter() - start < took / 3, "ids are not remembered"
    assert torch.equal(first, again) and first.shape == (10_000, 32) and clip_tokenizer(bpe) is tokenize
    assert torch.equal(
        tokenize(captions[:50], 77)[:, 0], first[:50, 0]
    )  # what is remembered does not depend on the length asked for


def test_what_is_no_caption_is_refused(bpe):
    tokenize = clip_tokenizer(bpe)
    for bad in ("one string", [None], [3.5], [b"bytes"], [["a list"]], [{}], ["a text", ["and a list"]]):
        with pytest.raises(UserError):
            tokenize(bad)
    n = tokenize.vocab_size
    assert tokenize([]).shape == (0, 32) and tokenize([""]).tolist()[0][:3] == [n - 2, n - 1, 0]


CLOSE_UP = "zoom " * 80 + "on a wooden "  # more tokens than any model here reads


def test_captions_that_are_cut_are_counted_and_those_that_become_the_same_are_named():
    tokenize = clip_tokenizer(LISTS["nano"])
    captions = [CLOSE_UP + "board", "a dog", CLOSE_UP + "boat", CLOSE_UP, "A dog ", CLOSE_UP + "board"]
    found = cut_captions(tokenize, captions)
    assert found.cut == [0, 2, 3, 5] and found.alike == [(0, 2), (0, 3)]
    assert "4 of 6 captions" in str(found) and "wooden board'" in str(found) and "wooden boat'" in str(found)
    whole = tokenize.whole(captions)
    for length in (len(w) + 2 for w in whole):
        alike = cut_captions(tokenize, captions, length).alike
        ids = tokenize(captions, length).tolist()
        first = [ids.index(i) for i in ids]
        assert alike == [(f, i) for i, f in enumerate(first) if whole[i] != whole[f]]
    assert not cut_captions(tokenize, captions, 999).cut and str(cut_captions(tokenize, captions, 999)) == ""
    assert not cut_captions(tokenize, []).alike


def test_a_caption_that_just_fits_and_a_longer_one_become_the_same():
    tokenize = clip_tokenizer(LISTS["nano"])
    found = cut_captions(tokenize, ["a dog", "a dog a"], context_length=len(tokenize.whole(["a dog"])[0]) + 2)
    assert found.cut == [1] and found.alike == [(0, 1)]


def test_what_is_cut_is_told_of_a_profile_and_nothing_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "2 of 2" in tell_of_cut_captions("mini", [CLOSE_UP + "board", CLOSE_UP + "boat"])
    assert tell_of_cut_captions("mini", ["a dog"]) == ""
    assert "before training" in tell_of_cut_captions("internvid", ["a dog"])


def packed(path, text):
    path.write_bytes(gzip.compress(text, 1))
    return path


@pytest.mark.parametrize(
    "text, said",
    [
        (b"", "holds no merges"),
        (b"#version: 0.2\n", "holds no merges"),
        (b"#version\n\n\n\n", "holds no merges"),
        (b"#version\nzz qq\n", "'zz', which no line before has made"),
        (b"#version\na b\nab c d\n", "does not hold two parts"),
        (b"#version\na b\nabc\n", "does not hold two parts"),
        (b"\xff\xfe\n\x00a b", "is not a gzipped list"),
        (bytes(2**24 + 1), "far longer than any list"),
    ],
)
def test_a_list_of_merges_that_is_none_is_refused(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        clip_tokenizer(packed(tmp_path / "bpe.txt.gz", text))


def test_a_list_that_unpacks_without_end_takes_little_memory(tmp_path):
    resource = pytest.importorskip("resource")
    path, piece = tmp_path / "bpe.txt.gz", gzip.compress(bytes(10**8), 9)
    path.write_bytes(piece * 20)  # 2 GB in 2 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="far longer than any list"):
        clip_tokenizer(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # KiB
    path.write_bytes(bytes(2**24 + 1))
    with pytest.raises(UserError, match="far longer than any list"):
        clip_tokenizer(path)


def test_a_list_of_another_vocabulary_is_refused_where_it_meets_a_model(tmp_path):
    lines = gzip.decompress(LISTS["nano"].read_bytes()).split(b"\n")
    nano = load_viclip("nano")
    for name, other in {
        "small": lines[:200],
        "large": [*[line for line in lines if line], b"a b", b"c d", b""],
    }.items():
        bpe = packed(tmp_path / f"{name}.gz", b"\n".join(other))
        for meet in (
            lambda bpe=bpe: load("nano", bpe=bpe),
            lambda bpe=bpe: encode_captions(nano, clip_tokenizer(bpe), ["a dog"]),
            lambda bpe=bpe: tell_of_cut_captions(get_profile("mini", bpe=str(bpe)), ["a dog"]),
        ):
            with pytest.raises(UserError, match=f"tokens and the model's vocabulary has {nano.config.vocab_size}"):
                meet()


@pytest.mark.parametrize("length", [1, 0, -1, 2.5, "77", True, None, 10**12])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(UserError, match="context_length must be a whole number"):
        clip_tokenizer(LISTS["nano"])(["a dog"], length)


def test_ids_of_words_are_ids_of_the_text():
    "Plain captions go word by word, which must be what the library makes of the whole: of any signs that ASCII has."
    rng, tokenize = random.Random(0), tokenizer_for("mini")
    signs = [chr(i) for i in range(128)] + list("''''  sstvmdlre01") * 4
    for _ in range(3000):
        text = "".join(rng.choices(signs, k=rng.randrange(1, 16)))
        if "<|" not in text:
            assert tokenize.whole([text])[0] == tokenize._bpe.encode(_clean(text), add_special_tokens=False).ids, text


if __name__ == "__main__":
    nano = Plain(LISTS["nano"])
    stored = ",\n".join(" " + json.dumps(ids_of(c, nano), ensure_ascii=False) for c in captions_to_store())
    (ROOT / "tests" / "golden" / "nano_tokens.json").write_text(f"[\n{stored}\n]\n", encoding="utf-8")
