"""Disks that are full, closed, gone or odd, made for real: how each command ends on them, and goes on afterwards.

    sudo frames-matter bench disks

Needs Linux and root, for it mounts tmpfs; what it mounts it takes away again. Each command has to end with the exit
code 2 and one sentence that fits, without a traceback, and with 0 once the disk is well. The command fails if any
ends otherwise. Quotas are not tried: a tmpfs has none here, and root is not held to those of other disks.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ffmpeg
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import atomic_write, project_root

RESULT = project_root() / "results" / "bench" / "disks.json"
PROGRAM = [sys.executable, "-m", "frames_matter"]
BROKEN = "can only be read|fails; see to the disk|cannot be read or written"
FULL, CLOSED, GONE = "No space left", "can only be read", "There is nothing at|is gone|not there|cannot be opened"


@dataclass
class Place:
    "Where one case is tried: a disk of its own, and what commands are told of it."

    disk: Path  # where it is mounted
    films: Path  # of one's own
    env: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        "FRAMES_MATTER_HOME, on the disk unless the case says otherwise."
        return Path(self.env.get("FRAMES_MATTER_HOME", self.disk / "home"))


def mount(place: Place, options: str) -> None:
    "Mount a tmpfs, or change one."
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place.disk], check=True)


def used(place: Place) -> int:
    "Kilobytes on the disk."
    total, *_ = shutil.disk_usage(place.disk)
    return (total - shutil.disk_usage(place.disk).free) // 1024


def fill(kilobytes: int) -> Callable[[Place], None]:
    "Leave so many kilobytes free."
    return lambda place: mount(place, f"remount,size={max(used(place) + kilobytes, 8)}k")


def close(place: Place) -> None:
    "Let nothing be written any more, whoever is at work."
    subprocess.run(["mount", "-o", "remount,ro", place.disk], check=True)


def put_ext4(place: Place) -> None:
    "Another kind of disk, of an image: a tmpfs cannot be closed while a file of it is open."
    image = place.disk.with_suffix(".ext4")
    subprocess.run(["umount", place.disk], check=True)
    subprocess.run(["truncate", "-s", "100M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, place.disk], check=True)


def break_ext4(place: Place) -> None:
    "Have the disk close itself as it does when it fails, though files are open."
    subprocess.run(["mount", "-o", "remount,abort", place.disk], check=False, stderr=subprocess.DEVNULL)


def heal(place: Place) -> None:
    "Space and rights again; a disk that is gone is there again."
    image = place.disk.with_suffix(".ext4")
    if image.exists():
        subprocess.run(["umount", place.disk], check=True)
        subprocess.run(["fsck.ext4", "-y", image], check=False, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, place.disk], check=True)
    elif not os.path.ismount(place.disk):
        shutil.rmtree(place.disk / "home", ignore_errors=True)
        mount(place, "size=400m")
    else:
        mount(place, "remount,rw,size=400m")


def vanish(place: Place) -> None:
    "Take the disk away under whoever is at work."
    subprocess.run(["umount", "-l", place.disk], check=True)


def tell(place: Place, **env: str) -> None:
    "Give commands further environment variables."
    place.env |= env


def long_home(place: Place) -> None:
    "A home with a name that no disk takes."
    tell(place, FRAMES_MATTER_HOME=str(place.disk / ("n" * 300)))


def file_for_folder(name: str) -> Callable[[Place], None]:
    "A file where a folder should be."

    def put(place):
        (place.home / name).parent.mkdir(parents=True, exist_ok=True)
        (place.home / name).write_text("mine")

    return put


def tmpdir_full(place: Place) -> None:
    "The folder of temporary files is on the full disk, the home is not."
    (place.disk / "tmp").mkdir()
    home = Path(tempfile.mkdtemp(dir=place.films.parent))
    tell(place, TMPDIR=str(place.disk / "tmp"), FRAMES_MATTER_HOME=str(home))
    fill(0)(place)


BUILD = "dataset build -p smoke"
OWN = "dataset build --from {films} --like smoke --name own"
EXPORT = "dataset export -p smoke --to {disk}/tars"
LESSONS = "reproduce -p smoke"
REPORT = "report -p smoke"


@dataclass(frozen=True)
class Case:
    "A fault, the command it is met by, and what is to be said; `late`: the fault comes while the command works."

    name: str
    fault: Callable[[Place], None]
    command: str
    says: str
    before: tuple[str, ...] = ()  # commands that succeed first
    late: str = ""  # a file or folder of the home; once it is there the fault comes
    ends: tuple[int, ...] = (2,)
    heals: bool = True
    disk: Callable[[Place], None] = lambda _: None  # another kind of disk


def broken(when: str, command: str, late: str, before: tuple[str, ...] = ()) -> Case:
    "A disk that fails and closes itself while a command works."
    return Case(f"read-only {when}", break_ext4, command, BROKEN, before, late, disk=put_ext4)


CASES = [
    *(Case(f"full, {n} kB free", fill(n), BUILD, FULL) for n in (0, 16, 256, 700, 1200)),
    *(Case(f"full, {n} kB free", fill(n), OWN, FULL) for n in (0, 60, 300, 700)),
    *(Case(f"full, {n} kB free", fill(n), EXPORT, FULL, (BUILD,)) for n in (0, 200)),
    *(Case(f"full, {n} kB free", fill(n), LESSONS, FULL, (BUILD,)) for n in (0, 100, 400)),
    *(Case(f"full, {n} kB free", fill(n), REPORT, FULL, (LESSONS, "dataset verify -p smoke")) for n in (0,)),
    Case("temporary files on a full disk", tmpdir_full, BUILD, FULL, ends=(0, 2)),
    *(Case("read-only", close, c, CLOSED) for c in (BUILD, OWN)),
    *(Case("read-only", close, c, CLOSED, (LESSONS,)) for c in (EXPORT, LESSONS, REPORT)),
    Case(
        "read-only while films are made", break_ext4, BUILD, BROKEN, disk=put_ext4, late="data/smoke/world/videos/*.mp4"
    ),
    broken("while clips are cut", BUILD, "data/smoke/clips/*.mp4"),
    broken("while clips are cut", OWN, "data/own/clips/*.mp4"),
    Case(
        "read-only between lessons",
        break_ext4,
        LESSONS,
        BROKEN,
        before=(BUILD,),
        disk=put_ext4,
        late="results/smoke/notebooks/01*.ipynb",
    ),
    Case("gone while films are made", vanish, BUILD, GONE, late="data/smoke/world/videos/*.mp4"),
    Case("gone while clips are cut", vanish, OWN, GONE, late="data/own/clips/*.mp4"),
    *(Case("a name too long", long_home, c, "too long", heals=False) for c in (BUILD, OWN, LESSONS)),
    *(Case(f"a file for {f}", file_for_folder(f), BUILD, f, heals=False) for f in ("data", "data_manifest")),
    Case("a file for results", file_for_folder("results"), LESSONS, "results", heals=False),
    Case("a file for clips", file_for_folder("data/own/clips"), OWN, "clips", heals=False),
]


def make_films(folder: Path) -> Path:
    "Six films of one's own with their captions."
    folder.mkdir()
    for i, name in enumerate(("dog", "boat", "rain", "snow", "wind", "hail")):
        picture = ffmpeg.input(f"testsrc2=s=320x{240 + 2 * i}:r=8:d=4", f="lavfi")
        made = ffmpeg.output(picture, str(folder / f"{name}.mp4"), vcodec="libx264", pix_fmt="yuv420p")
        made.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
        (folder / f"{name}.txt").write_text(f"There is {name} in it.")
    return folder


def start(place: Place, command: str) -> subprocess.Popen:
    "A command at work."
    env = os.environ | {"FRAMES_MATTER_HOME": str(place.home), "OMP_NUM_THREADS": "1"} | place.env
    words = command.format(films=place.films, disk=place.disk).split()
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([*PROGRAM, *words], env=env, cwd=place.films.parent, **pipes)


def end_of(process: subprocess.Popen) -> tuple[int, str]:
    "Exit code and all that was said."
    try:
        out, err = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return -1, "it never ended"
    return process.returncode, "Traceback" if "Traceback" in out + err else (err.strip() or out.strip())


def met(case: Case, place: Place) -> tuple[int, str]:
    "How the command ends that meets the fault."
    if not case.late:
        case.fault(place)
        return end_of(start(place, case.command))
    process = start(place, case.command)
    while process.poll() is None and not any(place.home.glob(case.late)):
        time.sleep(0.005)
    case.fault(place)
    return end_of(process)


@contextlib.contextmanager
def disk_of(folder: Path, films: Path) -> Iterator[Place]:
    "A disk for one case."
    place = Place(folder / "disk", films)
    place.disk.mkdir(exist_ok=True)
    mount(place, "size=400m")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place.disk], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(place.disk)
        place.disk.with_suffix(".ext4").unlink(missing_ok=True)


def outcome(case: Case, folder: Path, films: Path) -> dict:
    "What became of one case."
    with disk_of(folder, films) as place:
        case.disk(place)
        for command in case.before:
            code, said = end_of(start(place, command))
            if code:
                raise UserError(f"{command} failed on a disk that is well: {said}.")
        code, said = met(case, place)
        last = said.splitlines()[-1] if said else ""
        fits = code in case.ends and (code == 0 or any(words in last for words in case.says.split("|")))
        again, after = (0, "") if not case.heals else (heal(place), end_of(start(place, case.command)))[1]
        whole = verified(place, case) if case.heals and "dataset" in case.command else ""
    ended = dict(case=case.name, command=case.command, code=code, said=last.replace(str(folder), "..."))
    return ended | dict(
        again=again, well=bool(fits and again == 0 and not whole), after=whole or after[-200:] * bool(again)
    )


def verified(place: Place, case: Case) -> str:
    "What is wrong with the data set that was built in the end; nothing if nothing is."
    code, said = end_of(start(place, f"dataset verify -p {'own' if 'own' in case.command else 'smoke'}"))
    return said if code else ""


def main() -> None:
    "Try all cases, or those whose name or command holds a word; fail if any ended otherwise than it must."
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        return print("Disks are left out: mounting them needs Linux and root; run this with sudo.")  # all else goes on
    words, ends = " ".join(sys.argv[1:]), []
    with tempfile.TemporaryDirectory() as name:
        films = make_films(Path(name) / "films")
        for case in CASES:
            if words in f"{case.name} {case.command}":
                ends.append(outcome(case, Path(name), films))
                print("ok " if ends[-1]["well"] else "BAD", json.dumps(ends[-1]), flush=True)
    if not words:
        atomic_write(RESULT, json.dumps(dict(command="frames-matter bench disks", ends=ends), indent=1) + "\n")
    if wrong := [end for end in ends if not end["well"]]:
        raise UserError(f"{len(wrong)} of {len(ends)} cases ended otherwise than they must.")


if __name__ == "__main__":
    run_script(main)
