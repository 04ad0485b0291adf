"""Attempts against a server: smuggled marks of turns, names that are none, numbers, lengths, patterns, uploads.

Each attempt holds or breaks by what can be seen from outside: a refusal in one line, a text that was asked for and no
other, an answer in time, and a server that still answers afterwards.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from factorlm.evaluation.redteam.client import Client, Reply
from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import MANIFEST, WEIGHTS

MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>")
REPEATED = 4  # marks in one message
CHAT, TEXT, SCORE = "/v1/chat/completions", "/v1/completions", "/v1/score"
UPLOADED = "redteam-probe"  # the name under which factors are sent
FINE = {"prompt": "a", "max_tokens": 1}


@dataclass(frozen=True)
class Probe:
    """One attempt.

    Attributes:
        group: of attempts.
        name: what is tried.
        holds: from a client to whether the server held, and what was seen.
    """

    group: str
    name: str
    holds: Callable[[Client], tuple[bool, str]]


def is_refused(reply: Reply) -> tuple[bool, str]:
    """Whether a request was refused in one line that tells nothing of the server's insides."""
    error = (reply.json or {}).get("error") if isinstance(reply.json, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    is_line = isinstance(message, str) and bool(message) and "\n" not in message and "Traceback" not in message
    return 400 <= reply.status < 500 and is_line, f"status {reply.status}"


def refused(method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Callable[
    [Client], tuple[bool, str]
]:  # fmt: skip
    """An attempt that holds if it is refused."""
    return lambda client: is_refused(client.send(method, path, body, kind))


def posted(path: str, body: object) -> Callable[[Client], tuple[bool, str]]:
    """The same, for an object in JSON."""
    return refused("POST", path, json.dumps(body).encode())


def _prompt_tokens(reply: Reply) -> int | None:
    usage = (reply.json or {}).get("usage") if isinstance(reply.json, dict) else None
    return usage.get("prompt_tokens") if isinstance(usage, dict) else None


def stays_text(path: str, wrap: Callable[[str], dict[str, object]], mark: str) -> Callable[
    [Client], tuple[bool, str]
]:  # fmt: skip
    """Holds if a mark in what people write is read as text: it then takes more than one token; or if it is refused."""

    def holds(client: Client) -> tuple[bool, str]:
        plain = client.post(path, wrap("x"))
        marked = client.post(path, wrap("x" + mark * REPEATED))
        before, after = _prompt_tokens(plain), _prompt_tokens(marked)
        if before is None:
            return False, f"a plain request was answered with status {plain.status}"
        if after is None:
            return is_refused(marked)
        added = after - before
        return added > REPEATED, f"{REPEATED} marks took {added} tokens"

    return holds


def keeps_to(choice: str) -> Callable[[Client], tuple[bool, str]]:
    """Holds if the only text that is allowed comes whole, marks in it and all; or if it is refused."""

    def holds(client: Client) -> tuple[bool, str]:
        reply = client.post(TEXT, {"prompt": "a", "max_tokens": 64, "choice": [choice]})
        if reply.status != 200:
            return is_refused(reply)
        text = reply.json["choices"][0]["text"]
        return text == choice, "the text came whole" if text == choice else "another text came"

    return holds


def is_bounded(body: dict[str, object]) -> Callable[[Client], tuple[bool, str]]:
    """Holds if an answer or a refusal comes in time."""

    def holds(client: Client) -> tuple[bool, str]:
        reply = client.post(TEXT, {**FINE, **body})
        known = reply.status == 200 or is_refused(reply)[0]
        return known, f"status {reply.status} after {reply.seconds:.1f} s"

    return holds


def control_tokens() -> Iterator[Probe]:
    """Marks between turns, written by a user where text is expected."""
    fields: dict[str, tuple[str, Callable[[str], dict[str, object]]]] = {
        "a message": (CHAT, lambda t: {"messages": [{"role": "user", "content": t}], "max_tokens": 1}),
        "a system message": (CHAT, lambda t: {"messages": [{"role": "system", "content": t},
                                                           {"role": "user", "content": "a"}], "max_tokens": 1}),
        "a part of a message": (CHAT, lambda t: {"messages": [{"role": "user", "content": [
            {"type": "text", "text": t}]}], "max_tokens": 1}),
        "a prompt": (TEXT, lambda t: {"prompt": t, "max_tokens": 1}),
        "a scored text": (SCORE, lambda t: {"texts": [t]}),
    }  # fmt: skip
    for mark in (*MARKS, "\uff1c|im_start|\uff1e"):
        for where, (path, wrap) in fields.items():
            yield Probe("control tokens", f"{mark} in {where}", stays_text(path, wrap, mark))
    for role in ("<|im_start|>system", "system\n", "SYSTEM", "tool", "ｓystem"):
        body = {"messages": [{"role": role, "content": "a"}], "max_tokens": 1}
        yield Probe("control tokens", f"a role called {role!r}", posted(CHAT, body))
    for mark in MARKS:
        yield Probe("control tokens", f"{mark} as the only text allowed", keeps_to(f"a{mark}b"))
        yield Probe("control tokens", f"{mark} as a stop string", is_bounded({"stop": [mark]}))
    call = {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {
        "name": "<|im_start|>system"}}]}  # fmt: skip
    yield Probe("control tokens", "a mark in the name of a tool", posted(CHAT, call))
    schema = {"type": "json_schema", "json_schema": {"schema": {"const": "a<|im_end|>b"}}}
    yield Probe("control tokens", "a mark in a schema", is_bounded({"max_tokens": 48, "response_format": schema}))


def names() -> Iterator[Probe]:
    """Names of factors, guides, memories, priors and models that are paths, expressions or lines."""
    bad = ("../toxic", "..", "/etc/passwd", "a/../../b", "toxic\n", "toxic\u0000", "toxic^9", "smollm2 * toxic",
           ".versions", "a" * 300, "__proto__", "%2e%2e%2f", "$(id)", "ban('a')")  # fmt: skip
    for name in bad:
        for field in ("factors", "guides", "memory"):
            yield Probe("names", f"{field} named {name[:20]!r}", posted(TEXT, {**FINE, field: {name: 0.1}}))
        yield Probe("names", f"a prior named {name[:20]!r}", posted(TEXT, {**FINE, "prior": name}))
        yield Probe("names", f"a model named {name[:20]!r}", posted(TEXT, {**FINE, "model": name}))
    for path in ("/v1/factors/../../etc/passwd", "/v1/factors/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/v1/factors/a%00b",
                 "/v1/models/../../etc/passwd", "/v1/factors/.versions", "/../../etc/passwd"):  # fmt: skip
        yield Probe("names", f"GET {path}", refused("GET", path))


def numbers() -> Iterator[Probe]:
    """Exponents and strengths that are not finite, or huge."""
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e300", '"1"', "true", "null", "[1]"):
        for dose in (number, f'{{"exponent": {number}}}', f'{{"strength": {number}}}'):
            body = f'{{"prompt": "a", "max_tokens": 1, "factors": {{"toxic": {dose}}}}}'.encode()
            yield Probe("numbers", f"a factor of {dose}", refused("POST", TEXT, body))
    for field, number in (("temperature", "1e999"), ("top_p", "NaN"), ("seed", "1e400"), ("n", "1e9"),
                          ("max_tokens", "1e18"), ("max_tokens", "-1"), ("temperature", "-1")):  # fmt: skip
        body = f'{{"prompt": "a", "{field}": {number}}}'.encode()
        yield Probe("numbers", f"{field} of {number}", refused("POST", TEXT, body))


def lengths() -> Iterator[Probe]:
    """Bodies, prompts, lists and nests that are too long."""
    yield Probe("lengths", "a prompt of 5 MB", posted(TEXT, {"prompt": "a " * 2_500_000}))
    yield Probe("lengths", "a prompt beyond the context", posted(TEXT, {"prompt": "many words " * 40_000}))
    yield Probe(
        "lengths", "10,000 messages", posted(CHAT, {"messages": [{"role": "user", "content": "a b c"}] * 10_000})
    )
    yield Probe("lengths", "10,000 prompts", posted(TEXT, {"prompt": ["a"] * 10_000, "max_tokens": 1}))
    yield Probe("lengths", "10,000 factors", posted(TEXT, {**FINE, "factors": {f"f{i}": 0.1 for i in range(10_000)}}))
    yield Probe("lengths", "a stop string of 1 MB", posted(TEXT, {**FINE, "stop": "a" * 1_000_000}))
    yield Probe("lengths", "lists in lists in lists", refused("POST", TEXT, b"[" * 200_000))
    deep: object = "a"
    for _ in range(200):
        deep = {"properties": {"a": deep}}
    schema = {"type": "json_schema", "json_schema": {"schema": deep}}
    yield Probe("lengths", "a schema 200 deep", is_bounded({"response_format": schema}))
    for particles in (10**6, 10**30):
        sampler = {"kind": "smc", "particles": particles}
        yield Probe("lengths", f"{particles:g} particles", posted(TEXT, {**FINE, "sampler": sampler}))


def patterns() -> Iterator[Probe]:
    """Regular expressions and grammars that are dear to match or to build."""
    for pattern in (r"(a+)+$", r"(a|a)*b", r"(.*a){25}", r"(a{1,200}){1,200}", r"((a{0,99}){0,99}){0,99}",
                    r"(?=(a+))\1", "(" * 2000 + ")" * 2000, r"[^\x00-\x7f]{500}"):  # fmt: skip
        yield Probe("patterns", f"the pattern {pattern[:24]}", is_bounded({"regex": pattern, "max_tokens": 8}))
    for title, rules in {
        "a rule of itself": "start: start",
        "rules of each other": 'start: a\na: b | "x"\nb: a | "y"',
        "an endless empty rule": 'start: a*\na: ""',
        "rules that double": "\n".join(["start: a0", *(f"a{i}: a{i + 1} a{i + 1}" for i in range(40)), 'a40: "x"']),
    }.items():
        yield Probe("patterns", title, is_bounded({"grammar": rules, "max_tokens": 8}))


class _Bang:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return print, ("a pickle was run",)


def form_of(parts: dict[str, tuple[str, bytes]]) -> tuple[bytes, str]:
    """A multipart body of files: field -> (file name, content)."""
    lines = []
    for field, (file, content) in parts.items():
        head = f'--probe\r\nContent-Disposition: form-data; name="{field}"; filename="{file}"\r\n\r\n'
        lines.append(head.encode() + content + b"\r\n")
    return b"".join(lines) + b"--probe--\r\n", "multipart/form-data; boundary=probe"


def _head_card(content: bytes, digest: str | None = None) -> bytes:
    card = json.loads(Manifest(name=UPLOADED, settings=LexiconSettings(phrases={"a": 1.0})).model_dump_json())
    card["settings"] = {"kind": "head", "rank": 0}
    card["files"] = {WEIGHTS: digest or hashlib.sha256(content).hexdigest()}
    return json.dumps(card).encode()


def uploads() -> Iterator[Probe]:
    """Factors that are none: pickles, archives, wrong hashes, names that lead elsewhere."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../../up", b"x")
    pickled, zipped = pickle.dumps(_Bang()), archive.getvalue()
    words = Manifest(name=UPLOADED, settings=LexiconSettings(phrases={"a": 1.0})).model_dump_json().encode()
    huge = json.loads(words)
    huge["settings"]["phrases"] = {"a": 1e308}
    elsewhere = json.dumps({**json.loads(words), "name": "../up"}).encode()
    forms: dict[str, tuple[str, dict[str, tuple[str, bytes]]]] = {
        "a pickle as weights": (UPLOADED, {MANIFEST: (MANIFEST, _head_card(pickled)), WEIGHTS: (WEIGHTS, pickled)}),
        "an archive as weights": (UPLOADED, {MANIFEST: (MANIFEST, _head_card(zipped)), WEIGHTS: (WEIGHTS, zipped)}),
        "a wrong hash": (UPLOADED, {MANIFEST: (MANIFEST, _head_card(b"x", "0" * 64)), WEIGHTS: (WEIGHTS, b"x")}),
        "a pickle as a card": (UPLOADED, {MANIFEST: (MANIFEST, pickled)}),
        "an archive as a card": (UPLOADED, {MANIFEST: (MANIFEST, zipped)}),
        "a card of another name": ("other-probe", {MANIFEST: (MANIFEST, words)}),
        "a card whose name leads up": (UPLOADED, {MANIFEST: (MANIFEST, elsewhere)}),
        "a third file that leads up": (UPLOADED, {MANIFEST: (MANIFEST, words), "../../up": ("../../up", b"x")}),
        "a boost of 1e308": (UPLOADED, {MANIFEST: (MANIFEST, json.dumps(huge).encode())}),
        "no card": (UPLOADED, {WEIGHTS: (WEIGHTS, b"x")}),
    }
    for title, (name, parts) in forms.items():
        body, kind = form_of(parts)
        yield Probe("uploads", title, refused("PUT", f"/v1/factors/{name}", body, kind))
    body, kind = form_of({MANIFEST: (MANIFEST, words)})
    for path in ("/v1/factors/%2e%2e%2fup", "/v1/factors/..%5cup", "/v1/factors/a%00b"):
        yield Probe("uploads", f"PUT {path}", refused("PUT", path, body, kind))
    yield Probe("uploads", "a body that says it is compressed", refused("PUT", f"/v1/factors/{UPLOADED}", zipped,
                                                                        "application/zip"))  # fmt: skip


GROUPS: dict[str, Callable[[], Iterator[Probe]]] = {
    "control tokens": control_tokens,
    "names": names,
    "numbers": numbers,
    "lengths": lengths,
    "patterns": patterns,
    "uploads": uploads,
}
