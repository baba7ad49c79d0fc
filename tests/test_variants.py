"Paraphrases and foils of captions: what the rules do, what they leave alone, and that they know no clip."

import pytest

from frames_matter.labs.variants import OPPOSITES, SYNONYMS, foil, paraphrase, variants_of

CAPTIONS = [  # caption, its paraphrase, and what its foil may be
    (
        "In this clip a small red circle moves to the left on a green meadow, and the camera pans gently.",
        "A little red circle travels to the left on a green meadow.",
        {"to the right", "a large red circle", "a small blue circle", "a small red square", "a yellow meadow"},
    ),
    (
        "First a striped blue star then a white ring on a clear starry night.",
        None,
        {"First a white ring then a striped blue star on", "green star", "blue circle", "black ring", "starry day"},
    ),
    (
        "We watch as a large square turns into a purple diamond.",
        "A big square becomes a purple diamond.",
        {"as a purple diamond turns into a large square.", "small square", "large triangle", "orange diamond"},
    ),
    ("Three crosses hang in a row.", "Three crosses float in a row.", {"Five crosses hang in a row."}),
    (
        "The video shows how a ring swings quickly to and fro over gently rippling water.",
        "A ring sways rapidly to and fro over gently rippling water.",
        {"swings slowly", "under gently rippling water"},
    ),
    (
        "Here a cross rests while a diamond flashes for a moment.",
        "A cross stays while a diamond blinks for an instant.",
        None,
    ),
    (
        "A ring is joined by a cross at the beginning.",
        "A ring is joined by a cross at the start.",
        {"at the end."},
    ),
    (
        "A quiet scene where an orange diamond drifts up in front of a brick wall.",
        "An orange diamond glides up before a brick wall.",
        {"pink diamond", "drifts down", "behind a brick wall"},
    ),
    ("A man walks down the street.", "A gentleman strolls down the road.", {"A woman walks", "walks up the street"}),
    ("Two dogs run.", None, {"Four dogs run."}),
    ("A person plays the violin.", "A human plays the violin.", None),
    ("Xylophones.", None, None),
    ("", None, None),
]


@pytest.mark.parametrize("caption, otherwise, wrong", CAPTIONS, ids=lambda x: x[:20] if isinstance(x, str) else "")
def test_rules(caption, otherwise, wrong):
    assert paraphrase(caption) == (caption if otherwise is None else otherwise)
    if wrong is None:
        assert foil(caption) == caption
    else:
        assert foil(caption) != caption and any(words in foil(caption) for words in wrong)
    assert foil(caption) == foil(caption)


def test_what_no_rule_changes_is_counted():
    made = variants_of(caption for caption, _, _ in CAPTIONS)
    assert made.unchanged(made.paraphrases) == sum(otherwise is None for _, otherwise, _ in CAPTIONS)
    assert made.unchanged(made.foils) == sum(wrong is None for _, _, wrong in CAPTIONS)


def test_no_word_stands_for_itself_and_opposites_never_are_synonyms():
    assert all(word != other for table in (SYNONYMS, OPPOSITES) for word, other in table.items())
    assert not any(SYNONYMS.get(word) == other for word, other in OPPOSITES.items())
