"What is odd in every kind of file: values, texts, JSON, bytes."

import json

from .cell import SECRET

TEXTS = (
    *("", " ", "nan", "NULL", "N/A", "-", "0", "a" * 41, "a" * 300, "word " * 40_000, "\ufeffa", "'", '"', '""'),
    *("\x1b[2J\x1b[31m", "\x00", "\x07", "a\nb", "a\rb", "a\u2028b", "\u202egnp.exe", "\u200b", "\x85", "\x7f"),
    *("e\u0301", "é", "ﬁlm", "電影", "फ़िल्म", "😀" * 30, "\ufffe", "\U0010ffff", "İı", "ß", "\xa0", "\u3000"),
    *("../../evil", "/etc/passwd", "..", ".", "../evil/x", "a/../../b", "C:\\x", "\\\\host\\x", "~", "~root/x", "-o"),
    *("file:///etc/passwd", "concat:a|b", "pipe:0", "http://", "https://[::1", "http://a b/", "data:video/mp4,AAAA"),
    *("--help", "$(touch x)", "`id`", "%s%n", "{id}", "{0.__class__}", "=1+1", "@SUM(A1)", "CON", "aux.mp4", "a:b"),
    *("1e400", "-1", "1,5", "٣", "0x10", "1_000", "inf", "00:00:01.5", "9" * 400, "1e-9", "00:99:00", "true", "[]"),
)
VALUES = (
    *(0, -1, 1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63, 10**40, 1.5, -0.0, 1e308, 1e-300, None, True, False),
    *([], {}, [1], [[]], {"a": 1}, [None], {"caption": "a"}, ["a", "b"]),
)
HALF_LETTERS = ("\ud800", "a\udc80b", "\udfff\ud800")


def mostly(rng, usual, others, chance=0.12):
    "The usual, or now and then one of the others: of an input with one odd thing in it more is read."
    return rng.choice(others) if rng.random() < chance else usual


def text(rng, half=False) -> str:
    "A text that somebody may have written; with `half` it may hold half a letter."
    if half and rng.random() < 0.1:
        return rng.choice(HALF_LETTERS)
    if rng.random() < 0.1:
        return "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0xD800)])) for _ in range(rng.randrange(40)))
    return rng.choice(TEXTS)


def value(rng):
    "Anything that JSON can hold."
    return rng.choice(VALUES) if rng.random() < 0.5 else text(rng, half=True)


def address(rng, cell) -> str:
    "Of a video, with what opens it; nobody may ask there."
    return rng.choice(
        [
            f"{cell.url}/a.mp4",
            f"http://user:{SECRET}@127.0.0.1:{cell.port}/a.mp4",
            f"https://127.0.0.1:{cell.port}/a.mp4?X-Amz-Signature={SECRET}&x=1",
            f"http://localhost:{cell.port}/a?token={SECRET}",
            f"http://[::ffff:127.0.0.1]:{cell.port}/a",
            f"http://2130706433:{cell.port}/a.mp4",
            f"HTTP://127.1:{cell.port}/a.mp4#t=1",
            f"http://127.0.0.1:{cell.port}/" + "a" * rng.choice([10, 3000]),
        ]
    )


def changed(rng, tree, times=0):
    "A tree of JSON in which some nodes are others, gone or more."
    tree = json.loads(json.dumps(tree))
    for _ in range(times or rng.choice([1, 1, 2, 4])):
        node = tree
        while isinstance(node, (dict, list)) and node:
            key = rng.choice([*node]) if isinstance(node, dict) else rng.randrange(len(node))
            if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.7:
                node = node[key]
                continue
            _change(rng, node, key)
            break
        else:
            return value(rng)
    return tree


def _change(rng, node, key):
    "One entry of a node made another."
    what = rng.randrange(6)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, dict):
        node[text(rng, half=True)] = node.pop(key)
    else:
        node[key] = value(rng)


def within_types(rng, tree):
    "A tree of JSON some of whose values are others of the same type."
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice([1, 1, 3])):
        node = tree
        while isinstance(node, (dict, list)) and node:
            key = rng.choice([*node]) if isinstance(node, dict) else rng.randrange(len(node))
            if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.9:
                node = node[key]
                continue
            node[key] = _like(rng, node[key])
            break
    return tree


def _like(rng, value):
    "Another value of the same type, or none."
    if rng.random() < 0.1:
        return None
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([0, -1, 1, 2, 7, 10**6, 2**62])
    if isinstance(value, float):
        return rng.choice([0.0, -1.0, 0.5, 100.0, 1e300, -1e-300, 7])
    if isinstance(value, (dict, list)):
        return type(value)()
    return text(rng)


def as_json(rng, tree) -> bytes:
    "A tree as JSON that may not be JSON."
    plain = json.dumps(tree, ensure_ascii=rng.random() < 0.7)
    n = rng.randrange(len(plain) + 1)
    written = rng.choice(
        [plain] * 8
        + [plain[:n], plain + plain, "\ufeff" + plain, plain.replace("1", "NaN"), plain.replace("1", "9" * 5000), ""]
        + [
            plain.replace('"', "'"),
            "[" * 10**5 + "]" * 10**5,
            '{"a": ' * 5000,
            plain.replace("0", "1e999"),
            "null",
            "7",
        ]
        + [plain[:n] + ',"a":1' * 3 + plain[n:], plain.replace(",", ",\n"), "//\n" + plain]
    )
    encoding = rng.choice(["utf-8"] * 8 + ["utf-16", "latin-1", "utf-32", "cp1252"])
    errors = "surrogatepass" if encoding.startswith("utf") else "replace"
    return written.encode(encoding, errors)


def damaged(rng, data: bytes, other: bytes = b"") -> bytes:
    "Bytes cut, flipped, lost, doubled, or of two files."
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        if not data:
            break
        a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        near = min(len(data), a + rng.choice([1, 8, 200, 4000]))
        what = rng.randrange(9)
        if what == 0:
            del data[b:]
        elif what == 1:
            del data[:a]
        elif what == 2:
            data[a:near] = bytes(near - a)
        elif what == 3:
            data[a:near] = rng.randbytes(near - a)
        elif what == 4:
            data[a:a] = rng.choice([rng.randbytes(500), bytes(5000), bytes(data[:2000])])
        elif what == 5:
            data[a:] = (other or bytes(data))[-(len(data) - a) :]
        else:
            for _ in range(rng.choice([1, 10, 100])):
                data[rng.randrange(min(len(data), rng.choice([64, 1000, 10**9])))] ^= 1 << rng.randrange(8)
    return bytes(data)
