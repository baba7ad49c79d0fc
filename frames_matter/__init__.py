"""Do frames matter? Adapting ViCLIP to video-text retrieval with a few dozen captioned clips.

`import frames_matter as fm` offers the public names, which __init__.pyi lists, and the subpackages:

base     errors, profiles, files, seeds, processes
metrics  ranks and recalls, the cosine gap, intervals and tests
video    frames: how they are decoded, and which are taken
world    the mini world: scenes, captions, films
model    ViCLIP, its weights and tokenizer, heads, losses, training
data     where clips come from, how they are made, the dataset
study    what a run is, how it is run, measured and stored
labs     the laboratories
report   tables, figures, README
clips    clips of one's own: a search in them, a judgement, what could be seen

Nothing is imported before it is asked for, so that importing this package takes no time; `dir(fm)` lists the names.
"""

__version__ = "0.1.0"

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
