"""A video site on loopback that treats a downloader as the real one does: a page that leads to the video elsewhere, videos that are gone, private or removed, a page with status 200
in a video's place, answers that are slow, cut off, or good only at the second try. What happens to a video is told by the beginning of its id.

    with serve_videos(folder) as (url_template, requests): ...

A good video's id may begin with any of GOOD; BAD says how the others end. The files of the folder are `<id>.mp4`.
"""
import contextlib, time
from collections import Counter
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from frames_matter import loopback

GOOD = ("page", "hops", "slow", "torn", "busy")  # a page with a player, redirects, takes a second, is cut off once, answers 503 once
BAD = {"gone": "HTTP Error 404", "lock": "HTTP Error 403", "took": "HTTP Error 410", "sign": "not fetched", "html": "a page", "half": "not fetched", "void": "not fetched"}
STATUS = {"gone": 404, "lock": 403, "took": 410}

class VideoSite(loopback._Handler):
    def _answer(self, body):
        address = urlsplit(self.path)
        if address.path != "/watch": return self._file(body)
        name = parse_qs(address.query)["v"][0]
        self.server.requests.append((self.command, self.path))
        kind = name[:4]
        if kind in STATUS: self._say(STATUS[kind])
        elif kind == "hops": self._say(302, Location=f"/hop?to={name}")
        elif kind == "page": self._page(f'<video width="320"><source src="/files/{name}.mp4" type="video/mp4"></video>', body)
        elif kind == "sign": self._page("<p>Sign in to confirm that you are not a robot.</p>", body)
        else: self._say(301, Location=f"/files/{name}.mp4")

    def _page(self, content, body):
        page = f"<!doctype html><html><head><title>A video</title></head><body>{content}</body></html>".encode()
        self._say(200, len(page), "text/html; charset=utf-8")
        if body: self.wfile.write(page)

    def _file(self, body):
        address = urlsplit(self.path)
        if address.path == "/hop":
            self.server.requests.append((self.command, self.path))
            return self._say(307, Location=f"/files/{parse_qs(address.query)['to'][0]}.mp4")
        self.path = self.path.removeprefix("/files") # where the folder's files are served
        name, ranged = self.path.strip("/").removesuffix(".mp4"), self.headers.get("Range", "bytes=0-") != "bytes=0-"
        kind = name[:4]
        self.server.tries[name] += 1
        if kind == "slow": time.sleep(0.7)
        if kind == "busy" and self.server.tries[name] == 1: return self._say(503)
        if kind == "html":
            page = b"<!doctype html><title>This video is not available in your country</title>"
            self._say(200, len(page), "video/mp4")
            return body and self.wfile.write(page)
        if kind == "void": return self._say(200, 0, "video/mp4")
        if kind == "half" or kind == "torn" and not ranged: return self._cut(name, body)
        super()._answer(body)

    def _cut(self, name, body):
        "Promise the whole file and hang up in the middle."
        whole = (self.server.folder/f"{name}.mp4").read_bytes()
        self.server.requests.append((self.command, self.path))
        self._say(200, len(whole), "video/mp4")
        if body: self.wfile.write(whole[:len(whole)//2])
        self.close_connection = True

@contextlib.contextmanager
def serve_videos(folder): # yields the profile's url_template, and the list of (method, path) asked for
    "Serve a folder of videos, <id>.mp4, the way a video site does."
    asked = []
    with mock.patch.object(loopback, "_Handler", VideoSite), mock.patch.object(loopback._Server, "tries", Counter(), create=True), loopback.serve_folder(folder, requests=asked) as url:
        yield f"{url}/watch?v={{id}}", asked
