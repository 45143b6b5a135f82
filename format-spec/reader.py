#!/usr/bin/env python3
"""Reads cairn repositories: lists, verifies and restores snapshots.

Written from the pages beside this file and from nothing else, so that a repository can be read without cairn. It needs
no index: it reads the footer of every pack. Section numbers below are those of objects.md.
"""

import argparse
import json
import os
import re
import stat
import sys
from collections import OrderedDict
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, NamedTuple

import argon2.low_level
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KIB, MIB = 1 << 10, 1 << 20
MAX_CLEAR, MAX_RECORD, MAX_STORED_RECORD = 16 * KIB, 8 * MIB, 8 * MIB + 64 * KIB
MAX_PACK, MAX_FOOTER, MAX_FRAMES, MAX_SEALED_FRAME = 256 * MIB, 32 * MIB, 1 << 16, 16 * MIB
MAX_FRAME, MAX_PREFIX, MAX_FRAME_CHUNKS, MAX_DEPTH, MAX_CHUNK = 8 * MIB, 16 * MIB, 1 << 16, 8, 4 * MIB
MAX_LEVELS, MAX_NODE, MAX_ENTRIES, MAX_BLOCK, MAX_RECORDS = 12, MIB, 1024, MIB, 1024
MAX_PATH, MAX_COMPONENT, MAX_TEXT, MAX_EXTENTS, MAX_ATTRIBUTES = 64 * KIB, 255, 4096, 4096, 1024
MAX_ATTRIBUTE_BYTES, MAX_WINDOW = 512 * KIB, 32 * MIB
CACHE = 128 * MIB  # raw bytes of decoded frames that are kept
MAX_WORK, LOOK = 64 << 30, 4 * KIB  # section 9: what is decoded for one chunk at most; what a copy of a base counts

# Kinds (section 3): number and directory.
DATA, META, SNAPSHOT, SET, TOMBSTONE, LEASE, PROOF, FORGOTTEN, WAL = range(1, 10)
PLACES = {DATA: "data", META: "meta", SNAPSHOT: "snapshots", SET: "sets", TOMBSTONE: "tombstones", LEASE: "leases",
          PROOF: "proofs", FORGOTTEN: "forgotten", WAL: "wal"}
HEADER, TAG, TRAILER, FOOTER_POSITION = 40, 16, 8, 1 << 63
DIRECTORY, FILE, SYMLINK, FIFO, CHAR_DEVICE, BLOCK_DEVICE, SOCKET, UNREAD = range(8)
# Log files (section 14): the plain head, blocks, lengths of segments and of other files, names.
PLAIN_HEAD, MAX_BLOCKS, MIN_SEGMENT, MAX_SEGMENT, MAX_SMALL = 640, 128, MIB, 1 << 30, MIB
HEAD_END = HEADER + PLAIN_HEAD + TAG
WAL_NAME = re.compile(r"(?!0{8})[0-9A-F]{8}(\.history|[0-9A-F]{16}(\.partial|\.[0-9A-F]{8}\.backup)?)")
SAME_OWNER, ATTRIBUTES, SPARSE, LINKED, UNSTABLE = 1, 2, 4, 8, 16


class Invalid(Exception):
    """The repository says something that the format does not allow, or does not have what it should."""


# What hostile or damaged bytes can lead to: lone surrogates in JSON are text that has no encoding.
PROBLEMS = (Invalid, OSError, UnicodeError)


def require(condition, message: str) -> None:
    if not condition:
        raise Invalid(message)


# --- Primitive encodings (section 2) ---

class Cursor:
    """Reads primitives from bytes; never past their end."""

    def __init__(self, raw: bytes, what: str):
        self.raw, self.at, self.what = raw, 0, what

    def __bool__(self) -> bool:
        return self.at < len(self.raw)

    def take(self, length: int) -> bytes:
        require(length <= len(self.raw) - self.at, f"truncated {self.what}")
        self.at += length
        return self.raw[self.at - length:self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def varint(self, limit: int = (1 << 64) - 1, least: int = 0) -> int:
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                break
            require(shift < 70, f"an integer of more than ten bytes in a {self.what}")
        require(least <= value <= limit, f"{value} in a {self.what}, where {least} to {limit} is allowed")
        return value

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def bytes(self, limit: int) -> bytes:
        return self.take(self.varint(limit))


def unescape(text: str) -> bytes:
    raw = text.encode()
    require(not re.search(rb"%(?![0-9A-Fa-f]{2})", raw), f"malformed escaped text {text!r}")
    return re.sub(rb"%(..)", lambda match: bytes.fromhex(match[1].decode()), raw, flags=re.DOTALL)


def from_hex(text, length: int, what: str) -> bytes:
    require(isinstance(text, str) and re.fullmatch(r"[0-9A-Fa-f]{%d}" % (2 * length), text), f"malformed {what}")
    return bytes.fromhex(text)


def field(record: dict, name: str, kind: type, default=None):
    value = record.get(name, default)
    fits = isinstance(value, kind) and not (kind is int and (isinstance(value, bool) or not 0 <= value < 1 << 64))
    require(fits, f"field {name!r} is missing or of another type")
    return value


def parse_json(stored: bytes, what: str) -> dict:
    try:
        value = json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{what} is not JSON: {error}") from None
    require(isinstance(value, dict), f"{what} is not a JSON object")
    return value


def clear_json(stored: bytes, what: str, names: set[str]) -> dict:
    """Configuration and keys: JSON in the clear, with its version and exactly these fields."""
    value = parse_json(stored, what)
    require(field(value, "version", int) == 1, f"{what} has format version {value['version']}, not 1")
    require(set(value) == names | {"version"}, f"{what} has other fields than it should")
    return value


def time_key(text) -> tuple[str, str]:
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", text)
    require(match, f"malformed time {text!r}")
    return match[1], (match[2] or "").ljust(9, "0")


# --- Keys, envelopes, compression (sections 4 to 8) ---

class Keys:
    """The keys derived from the master key of one repository."""

    def __init__(self, master: bytes, repository: bytes):
        self.repository = repository
        derive = lambda context: blake3(master, derive_key_context=context).digest()
        self.chunk_id_key, self.seal = derive("cairn 1 chunk id"), derive("cairn 1 seal")
        self.chunker, self.path = derive("cairn 1 chunker"), derive("cairn 1 path")
        self.configuration = derive("cairn 1 configuration")
        self.wal = derive("cairn 1 wal name")

    def wal_name(self, system_id: int, name: str) -> bytes:
        """The name of the object that holds a log file."""
        return blake3(system_id.to_bytes(8, "little") + name.encode(), key=self.wal).digest()

    def chunk_id(self, raw: bytes) -> bytes:
        return blake3(raw, key=self.chunk_id_key).digest(16)

    def object_cipher(self, header: bytes) -> AESGCM:
        return AESGCM(blake3(header, key=self.seal).digest())

    def associated(self, header: bytes, position: int) -> bytes:
        return self.repository + header[:8] + position.to_bytes(8, "little")

    def open(self, kind: int, header: bytes, position: int, sealed: bytes, what: str) -> bytes:
        require(len(header) == HEADER and header[:6] == b"CAIRN\0", f"{what} does not begin like a cairn object")
        require(header[6] == 1, f"{what} has format version {header[6]}, not 1")
        require(header[7] == kind, f"{what} is of kind {header[7]} where kind {kind} belongs")
        nonce = position.to_bytes(8, "little") + bytes(4)
        try:
            return self.object_cipher(header).decrypt(nonce, sealed, self.associated(header, position))
        except InvalidTag:
            raise Invalid(f"{what} does not authenticate: it is damaged, was altered, or belongs elsewhere") from None


def configuration_fields(config: dict) -> bytes:
    sizes = config["chunk_sizes"]
    parts = [str(config["version"]), config["id"].lower(), ",".join(config["features"]), config["created"],
             "{min}/{average}/{max}".format(**sizes)]
    return "\0".join(parts).encode()


def key_associated(repository: bytes, key: dict) -> bytes:
    associated = b"cairn 1 key" + repository
    for text in (key["label"].encode(), key["created"].encode()):
        associated += varint(len(text)) + text
    return associated


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


class Credential(NamedTuple):
    method: str
    secret: bytes

    def wrapping_key(self, derivation: dict) -> bytes:
        salt = from_hex(derivation.get("salt"), 32, "key salt")
        if self.method == "key-file":
            return blake3(self.secret + salt, derive_key_context="cairn 1 key file").digest()
        memory, passes, lanes = (field(derivation, name, int) for name in ("memory_kib", "passes", "lanes"))
        require(memory <= MIB and passes <= 64 and lanes <= 64, "a key asks for more work than the format allows")
        try:
            return argon2.low_level.hash_secret_raw(self.secret, salt, time_cost=passes, memory_cost=memory,
                                                    parallelism=lanes, hash_len=32, type=argon2.low_level.Type.ID,
                                                    version=0x13)
        except argon2.exceptions.HashingError as error:
            raise Invalid(f"impossible Argon2 parameters: {error}") from None


def unwrap(key: dict, repository: bytes, credential: Credential) -> bytes | None:
    """The master key, if this credential opens this key object."""
    derivation = field(key, "derivation", dict)
    field(key, "label", str), field(key, "created", str)
    if derivation.get("method") != credential.method:
        return None
    wrapped = from_hex(key["wrapped"], 32 + TAG, "wrapped key")
    try:
        return AESGCM(credential.wrapping_key(derivation)).decrypt(bytes(12), wrapped, key_associated(repository, key))
    except InvalidTag:
        return None


def decompress(compressed: bytes, limit: int, what: str, length: int | None = None, prefix: bytes = b"") -> bytes:
    """One zstd frame that says its length: `length` if that is known already, else at most `limit`."""
    try:
        size = zstandard.get_frame_parameters(compressed).content_size
        require(size == length if length is not None else size <= limit, f"{what} has another length than it should")
        known = zstandard.ZstdCompressionDict(prefix, zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
        decompressor = zstandard.ZstdDecompressor(dict_data=known, max_window_size=MAX_WINDOW)
        raw = decompressor.decompress(compressed, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Invalid(f"{what} does not decompress: {error}") from None
    require(len(raw) == size, f"{what} decompresses to another length than it says")
    return raw


# --- Packs (section 9) ---

class Frame(NamedTuple):
    pack: "Pack"
    slot: int
    offset: int
    stored_len: int
    depth: int
    bases: list[bytes]
    raw_len: int

    def __str__(self) -> str:
        return f"frame {self.slot} of {self.pack}"


class Pack(NamedTuple):
    kind: int
    path: Path
    header: bytes

    def __str__(self) -> str:
        return f"{PLACES[self.kind]} pack {self.path.name}"


def read_at(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        found = file.read(length)
    require(len(found) == length, f"{path} is truncated")
    return found


def decode_footer(pack: Pack, body: bytes, frames_end: int) -> Iterator[tuple[Frame, list[tuple[bytes, int]]]]:
    """Each frame with its chunks, as (id, length)."""
    cursor, offset = Cursor(body, f"footer of {pack}"), HEADER
    for slot in range(cursor.varint(MAX_FRAMES)):
        stored_len, depth = cursor.varint(MAX_SEALED_FRAME, least=TAG), cursor.u8()
        bases = [cursor.take(16) for _ in range(cursor.varint(MAX_FRAME_CHUNKS))]
        require(depth <= MAX_DEPTH and (depth == 0) == (not bases), f"frame of depth {depth} in {pack}")
        lengths, raw_len = [], 0
        for _ in range(cursor.varint(MAX_FRAME_CHUNKS, least=1)):
            lengths.append(cursor.varint(MAX_CHUNK, least=1))
            raw_len += lengths[-1]
            require(raw_len <= MAX_FRAME, f"frame {slot} of {pack} is too large")
        chunks = [(cursor.take(16), length) for length in lengths]
        yield Frame(pack, slot, offset, stored_len, depth, bases, raw_len), chunks
        offset += stored_len
    require(not cursor and offset == frames_end, f"the frames of {pack} do not fill it")


# --- Log files (section 14) ---

class WalHead(NamedTuple):
    system_id: int
    name: str
    length: int
    hash: bytes
    microseconds: int
    block: int
    stored: list[int]


def decode_wal_head(plain: bytes) -> WalHead:
    require(len(plain) == PLAIN_HEAD, "the head of a log file has another length")
    number = lambda at, length: int.from_bytes(plain[at:at + length], "little")
    count, name_length = plain[60], plain[61]
    require(count <= MAX_BLOCKS and name_length <= 40, "impossible counts in the head of a log file")
    unused = plain[62:64] + plain[64 + name_length:128] + plain[128 + 4 * count:]
    require(not any(unused), "bytes of the head of a log file that must be zero are not")
    name = plain[64:64 + name_length].decode("ascii", "replace")
    require(WAL_NAME.fullmatch(name), f"{name!r} is no name of a log file")
    length, block = number(8, 8), number(56, 4)
    is_log = len(name) == 24 or name.endswith(".partial")
    fits = MIN_SEGMENT <= length <= MAX_SEGMENT and not length & length - 1 if is_log else 1 <= length <= MAX_SMALL
    require(fits and 1 <= block <= MAX_FRAME and -(-length // block) == count, f"impossible lengths of {name}")
    stored = [number(128 + 4 * slot, 4) for slot in range(count)]
    require(all(TAG <= size <= block + block // 128 + KIB for size in stored), f"impossible blocks of {name}")
    return WalHead(number(0, 8), name, length, plain[24:56], number(16, 8), block, stored)


# --- Lists and trees (sections 10 to 12) ---

class Content(NamedTuple):
    bytes: int
    levels: int
    root: bytes | None


def content_of(value: dict) -> Content:
    require(set(value) <= {"bytes", "levels", "root"}, "content has unknown fields")
    size, levels, root = field(value, "bytes", int), field(value, "levels", int), value.get("root")
    require(levels <= MAX_LEVELS and (size == 0) == (root is None) and (size or not levels), "contradictory content")
    return Content(size, levels, None if root is None else from_hex(root, 16, "content root"))


def decode_node(raw: bytes, level: int, keyed: bool) -> list[tuple[bytes, int, bytes | None]]:
    """A list node's entries, as (id, bytes, first path)."""
    require(len(raw) <= MAX_NODE, "a list node is too long")
    cursor, entries = Cursor(raw, "list node"), []
    require(cursor.u8() == (b"T" if keyed else b"L")[0], "a list node is of the other kind")
    require(cursor.u8() == level, "a list node is of another level")
    while cursor:
        entries.append((cursor.take(16), cursor.varint(least=1), cursor.bytes(MAX_PATH) if keyed else None))
    require(1 <= len(entries) <= MAX_ENTRIES, f"a list node has {len(entries)} entries")
    return entries


@dataclass
class Entry:
    path: bytes = b""
    type: int = DIRECTORY
    mode: int = 0
    owner: tuple = (0, 0, b"", b"")
    mtime: tuple[int, int] = (0, 0)
    ctime: tuple[int, int] = (0, 0)
    inode: int = 0
    device: int | None = None
    unstable: bool = False
    size: int = 0
    extents: list[tuple[int, int]] | None = None
    content: Content = Content(0, 0, None)
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    attributes: tuple = ()

    def show(self) -> str:
        return os.fsdecode(self.path or b".").encode(errors="backslashreplace").decode()


def components(path: bytes) -> list[bytes]:
    """The path's components, whose order as a list is the order of trees."""
    parts = path.split(b"/") if path else []
    bad = any(part in (b"", b".", b"..") or len(part) > MAX_COMPONENT or 0 in part for part in parts)
    require(not bad and len(path) <= MAX_PATH, f"a tree has the forbidden path {path[:200]!r}")
    return parts


def decode_block(raw: bytes, last: list[bytes] | None = None) -> Iterator[Entry]:
    """The entries of a block that follows the entry with the path `last`."""
    require(len(raw) <= MAX_BLOCK, "a tree block is too long")
    cursor, before, count = Cursor(raw, "tree block"), Entry(), 0
    require(cursor.u8() == b"R"[0], "a tree block does not begin like one")
    while cursor:
        count += 1
        before = decode_record(cursor, before, count == 1)
        path = components(before.path)
        require(last is None or last < path, f"{before.show()} is out of order")
        last = path
        yield before
    require(1 <= count <= MAX_RECORDS, f"a tree block has {count} records")


def decode_record(cursor: Cursor, before: Entry, first: bool) -> Entry:
    shared = cursor.varint(len(before.path))
    path = before.path[:shared] + cursor.bytes(MAX_PATH - shared)
    components(path)
    kind, flags = cursor.u8(), cursor.u8()
    require(kind <= UNREAD, f"a tree has an entry of unknown type {kind}")
    require(flags < 32 and not (first and flags & SAME_OWNER), f"a tree record has the flags {flags}")
    require(not flags & SPARSE or kind == FILE, "a sparse entry that is no file")
    entry = Entry(path, kind, mode=cursor.varint(0o7777), unstable=bool(flags & UNSTABLE))
    ids = (1 << 32) - 1
    entry.owner = before.owner if flags & SAME_OWNER else (
        cursor.varint(ids), cursor.varint(ids), cursor.bytes(MAX_TEXT), cursor.bytes(MAX_TEXT))
    entry.mtime, entry.ctime = (
        (signed(earlier[0] + cursor.zigzag()), cursor.varint(999_999_999)) for earlier in (before.mtime, before.ctime))
    entry.inode = (before.inode + cursor.zigzag()) % (1 << 64)
    entry.device = cursor.varint() if flags & LINKED else None
    if kind == FILE:
        entry.size = length = cursor.varint((1 << 63) - 1)
        if flags & SPARSE:
            entry.extents = decode_extents(cursor, entry.size)
            length = sum(extent[1] for extent in entry.extents)
        if length:
            entry.content = Content(length, cursor.varint(MAX_LEVELS), cursor.take(16))
    elif kind == SYMLINK:
        entry.target = cursor.bytes(MAX_TEXT)
    elif kind in (CHAR_DEVICE, BLOCK_DEVICE):
        entry.rdev = cursor.varint(ids), cursor.varint(ids)
    if flags & ATTRIBUTES:
        pairs = [(cursor.bytes(MAX_COMPONENT), cursor.bytes(MAX_ATTRIBUTE_BYTES))
                 for _ in range(cursor.varint(MAX_ATTRIBUTES))]
        require(sum(len(name) + len(value) for name, value in pairs) <= MAX_ATTRIBUTE_BYTES, "attributes too long")
        entry.attributes = tuple(pairs)
    return entry


def signed(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def decode_extents(cursor: Cursor, size: int) -> list[tuple[int, int]]:
    extents, end = [], 0
    for number in range(cursor.varint(MAX_EXTENTS)):
        offset = end + cursor.varint(size - end, least=1 if number else 0)
        length = cursor.varint(size - offset, least=1)
        extents.append((offset, length))
        end = offset + length
    return extents


# --- The repository ---

class Snapshot(NamedTuple):
    id: str
    name: str
    host: str
    time: str
    kind: str
    content: Content


class Repository:
    """An opened repository: keys, the footers of all packs, and the frames decoded last."""

    def __init__(self, root: Path, credential: Credential):
        require((root / "config").is_file(), f"there is no repository in {root}")
        self.root = root
        config = clear_json(self.limited(root / "config", MAX_CLEAR), "the configuration",
                            {"id", "features", "created", "chunk_sizes", "mac"})
        features, sizes = field(config, "features", list), field(config, "chunk_sizes", dict)
        require(not features, f"the repository needs unknown features: {features}")
        require(set(sizes) == {"min", "average", "max"}, "malformed chunk sizes")
        least, average, most = (field(sizes, name, int) for name in ("min", "average", "max"))
        require(64 <= least < average < most <= MIB and average >= 256 and most >= 1024
                and not (least | average | most) & 1, "impossible chunk sizes")
        field(config, "created", str)
        repository = from_hex(config["id"], 32, "repository id")
        self.keys = Keys(self.master_key(repository, credential), repository)
        code = blake3(configuration_fields(config), key=self.keys.configuration).digest()
        require(from_hex(config["mac"], 32, "code") == code, "the configuration was altered")
        self.copies: dict[bytes, list[tuple[Frame, int, int]]] = {}
        self.cache: OrderedDict[tuple[Path, int], bytes] = OrderedDict()
        self.cached = self.decoded = self.deepest = self.work = 0

    def master_key(self, repository: bytes, credential: Credential) -> bytes:
        names = {"label", "created", "derivation", "wrapped"}
        for path in self.paths(self.root / "keys"):
            key = clear_json(self.whole(path, MAX_CLEAR), f"key {path.name}", names)
            if master := unwrap(key, repository, credential):
                return master
        raise Invalid("wrong password or key file")

    @staticmethod
    def paths(directory: Path) -> list[Path]:
        """The objects in a directory: entries whose name is 64 hexadecimal digits."""
        found = directory.iterdir() if directory.is_dir() else ()
        return sorted(path for path in found if re.fullmatch("[0-9a-f]{64}", path.name))

    @staticmethod
    def limited(path: Path, limit: int) -> bytes:
        with path.open("rb") as file:
            stored = file.read(limit + 1)
        require(len(stored) <= limit, f"{path} is longer than the format allows")
        return stored

    def whole(self, path: Path, limit: int) -> bytes:
        stored = self.limited(path, limit)
        require(blake3(stored).hexdigest() == path.name, f"{path} is not what its name says: it is damaged")
        return stored

    def record(self, kind: int, path: Path) -> dict:
        """Section 13: a sealed JSON object."""
        what, stored = f"{path.parent.name}/{path.name}", self.whole(path, MAX_STORED_RECORD)
        plain = self.keys.open(kind, stored[:HEADER], 0, stored[HEADER:], what)
        record = parse_json(decompress(plain, MAX_RECORD, what), what)
        if kind == PROOF and (drill := record.get("drill")) is not None:
            outcome, differences = drill.get("outcome"), drill.get("differences", [])
            require(outcome in ("equal", "different", "failed") and (outcome == "equal") == (not differences),
                    f"{what}: the outcome of its drill cannot be understood")
        return record

    def wal_head(self, path: Path) -> WalHead:
        """What a log file's object says of itself."""
        what, stored = f"log file {path.name}", read_at(path, 0, HEAD_END)
        plain = self.keys.open(WAL, stored[:HEADER], FOOTER_POSITION, stored[HEADER:], what)
        head = decode_wal_head(plain)
        require(self.keys.wal_name(head.system_id, head.name).hex() == path.name, f"{what} is that of another name")
        return head

    def wal(self, path: Path) -> Iterator[bytes]:
        """A log file's content. It is right only if this ends without an error."""
        head, header, hasher, offset, left = self.wal_head(path), read_at(path, 0, HEADER), blake3(), HEAD_END, 0
        left = head.length
        for slot, size in enumerate(head.stored):
            what = f"block {slot} of {head.name}"
            plain = self.keys.open(WAL, header, slot, read_at(path, offset, size), what)
            raw = decompress(plain, MAX_FRAME, what, min(head.block, left))
            hasher.update(raw)
            offset, left = offset + size, left - len(raw)
            yield raw
        require(path.stat().st_size == offset and hasher.digest() == head.hash, f"{head.name} is damaged")

    def snapshot(self, path: Path) -> Snapshot:
        record = self.record(SNAPSHOT, path)
        name, host, time, kind = (field(record, key, str) for key in ("name", "host", "time", "kind"))
        require(re.fullmatch(r"(?!latest\Z)[A-Za-z0-9_+][A-Za-z0-9._+-]{0,127}", name), f"forbidden name {name!r}")
        require(kind in ("stream", "tree"), f"snapshot {path.name} is of unknown kind {kind!r}")
        time_key(time)
        [unescape(text) for text in field(record, "paths", list)]
        return Snapshot(path.name, name, host, time, kind, content_of(field(record, "content", dict)))

    def snapshots(self, complain) -> list[Snapshot]:
        """All that can be read, oldest first; `complain` hears of the others."""
        found = []
        for path in self.paths(self.root / "snapshots"):
            try:
                found.append(self.snapshot(path))
            except PROBLEMS as error:
                complain(f"snapshot {path.name}: {error}")
        return sorted(found, key=lambda snapshot: (time_key(snapshot.time), snapshot.id))

    def pack_paths(self) -> Iterator[tuple[int, Path]]:
        for kind in (DATA, META):
            for number in range(256):
                yield from ((kind, path) for path in self.paths(self.root / PLACES[kind] / f"{number:02x}"))

    def scan(self, complain) -> None:
        """Reads all footers."""
        for kind, path in self.pack_paths():
            try:
                for frame, chunks in self.footer(kind, path):
                    start = 0
                    for id, length in chunks:
                        self.copies.setdefault(id, []).append((frame, start, length))
                        start += length
            except PROBLEMS as error:
                complain(str(error))
        for copies in self.copies.values():
            copies.sort(key=lambda copy: copy[0].depth)

    def footer(self, kind: int, path: Path) -> list[tuple[Frame, list[tuple[bytes, int]]]]:
        size = path.stat().st_size
        require(HEADER + TAG + TRAILER <= size <= MAX_PACK, f"{path} cannot be a pack: it has {size} bytes")
        trailer = read_at(path, size - TRAILER, TRAILER)
        length = int.from_bytes(trailer[:4], "little")
        require(trailer[4:] == b"CEND" and TAG <= length <= min(MAX_FOOTER + TAG, size - HEADER - TRAILER),
                f"{path} does not end like a pack: it is truncated or damaged")
        pack, end = Pack(kind, path, read_at(path, 0, HEADER)), size - TRAILER - length
        what = f"footer of {pack}"
        body = decompress(self.keys.open(kind, pack.header, FOOTER_POSITION, read_at(path, end, length), what),
                          MAX_FOOTER, what)
        return list(decode_footer(pack, body, end))

    def chunk(self, id: bytes, below: int = MAX_DEPTH + 1) -> bytes:
        """A chunk, from the frame of smallest depth that has it undamaged. A base's depth is below its user's."""
        if below > MAX_DEPTH:
            self.work = 0
        else:
            self.spend(LOOK * max(1, len(self.copies.get(id, ()))), f"chunk {id.hex()}")
        problem = Invalid(f"chunk {id.hex()} is in no pack" if id not in self.copies else
                          f"chunk {id.hex()} is in no frame of a depth less than {below}")
        for frame, start, length in self.copies.get(id, ()):
            if frame.depth < below:
                try:
                    raw = self.frame(frame)[start:start + length]
                    require(self.keys.chunk_id(raw) == id, f"chunk {id.hex()} in {frame} is damaged")
                    return raw
                except PROBLEMS as error:
                    problem = error
        raise problem

    def spend(self, work: int, what) -> None:
        """Section 9, Work: reading a chunk ends soon, however wide the pyramid of bases below it."""
        self.work += work
        require(self.work <= MAX_WORK, f"{what} takes too much to decode")

    def frame(self, frame: Frame) -> bytes:
        place = frame.pack.path, frame.slot
        if place in self.cache:
            self.cache.move_to_end(place)
            return self.cache[place]
        self.spend(frame.raw_len, frame)
        prefix = bytearray()
        for base in frame.bases:
            prefix += (content := self.chunk(base, below=frame.depth))
            self.spend(len(content), frame)
            require(len(prefix) <= MAX_PREFIX, f"the bases of {frame} are too long")
        sealed = read_at(frame.pack.path, frame.offset, frame.stored_len)
        plain = self.keys.open(frame.pack.kind, frame.pack.header, frame.slot, sealed, str(frame))
        raw = decompress(plain, MAX_FRAME, str(frame), frame.raw_len, bytes(prefix))
        self.decoded, self.deepest = self.decoded + 1, max(self.deepest, frame.depth)
        self.cache[place] = raw
        self.cached += len(raw)
        while self.cached > CACHE:
            self.cached -= len(self.cache.popitem(last=False)[1])
        return raw

    def chunks(self, content: Content, keyed: bool = False, sought: list[bytes] | None = None) \
            -> Iterator[tuple[bytes, bytes | None]]:
        """The content's chunks, each with the first path that its list promises. With `sought`, only the block of a
        keyed list that would have this path."""
        def below(id: bytes, size: int, path: bytes | None, level: int):
            raw = self.chunk(id)
            if level == 0:
                require(len(raw) == size, f"chunk {id.hex()} is not as long as its list says")
                yield raw, path
                return
            entries = decode_node(raw, level, keyed)
            require(sum(entry[1] for entry in entries) == size, "the lengths in a list node do not add up")
            require(path is None or entries[0][2] == path, "a list node begins at another path than promised")
            if sought is not None:
                entries = [entry for entry in entries if components(entry[2]) <= sought][-1:]
            for entry in entries:
                yield from below(*entry, level - 1)
        if content.root is not None:
            yield from below(content.root, content.bytes, None, content.levels)

    def tree(self, content: Content, sought: list[bytes] | None = None) -> Iterator[Entry]:
        """The entries of a tree, in order."""
        last: list[bytes] | None = None
        leaf: list[bytes] | None = None  # the last entry that is not a directory
        for raw, first_path in self.chunks(content, True, sought):
            for number, entry in enumerate(decode_block(raw, last)):
                path = components(entry.path)
                require(number or first_path in (None, entry.path), "a tree block begins at another path than promised")
                # All that is below an entry follows it directly, so the last leaf is the only one to look at.
                require(leaf is None or path[:len(leaf)] != leaf, f"{entry.show()} lies below what is not a directory")
                last, leaf = path, leaf if entry.type == DIRECTORY else path
                yield entry


# --- Restoring ---

class Restorer:
    """Writes a tree beneath a new directory. Every path is opened component by component without following links."""

    def __init__(self, repository: Repository, target: Path, complain):
        self.repository, self.complain = repository, complain
        self.root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        self.at: tuple[list[bytes], int] = ([], os.dup(self.root))
        self.open_directories: list[Entry] = []
        self.linked: dict[tuple[int, int], Entry] = {}

    def run(self, content: Content) -> None:
        for entry in self.repository.tree(content):
            path = components(entry.path)
            self.leave(path)
            try:
                self.entry(entry, path)
            except (Invalid, OSError, OverflowError) as error:
                self.complain(f"{entry.show()}: {error}")
        self.leave(None)

    def leave(self, path: list[bytes] | None) -> None:
        """Finishes the directories that do not contain `path`: their times and modes come after their content."""
        while self.open_directories:
            directory = self.open_directories[-1]
            parts = components(directory.path)
            if path is not None and path[:len(parts)] == parts:
                return
            self.open_directories.pop()
            try:
                fd = self.directory(parts)
                self.metadata(directory, fd, b".", fd)
            except OSError as error:
                self.complain(f"{directory.show()}: {error}")

    def directory(self, parts: list[bytes]) -> int:
        """An open directory beneath the target, made where it is missing."""
        if self.at[0] == parts:
            return self.at[1]
        fd = os.dup(self.root)
        for part in parts:
            parent = fd
            try:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=parent)
                fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            finally:
                os.close(parent)
        os.close(self.at[1])
        self.at = (parts, fd)
        return fd

    def entry(self, entry: Entry, path: list[bytes]) -> None:
        if entry.type == DIRECTORY:
            self.directory(path)
            self.open_directories.append(entry)
            return
        require(path, "the root of a tree is not a directory")
        if entry.type in (SOCKET, UNREAD):
            return self.complain(f"{entry.show()}: " + ("a socket, not restored" if entry.type == SOCKET else
                                                        "it could not be read when the backup was made"), failure=False)
        parent, name = self.directory(path[:-1]), path[-1]
        if self.link(entry, parent, name):
            return
        if entry.type == FILE:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
            try:
                self.write(entry, fd)
                self.metadata(entry, parent, name, fd)
            finally:
                os.close(fd)
            return
        if entry.type == SYMLINK:
            os.symlink(entry.target, name, dir_fd=parent)
        elif entry.type == FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            kind = stat.S_IFCHR if entry.type == CHAR_DEVICE else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(*entry.rdev), dir_fd=parent)
        self.metadata(entry, parent, name)

    def link(self, entry: Entry, parent: int, name: bytes) -> bool:
        """Links to an entry restored before, if this is another name of it."""
        if entry.device is None:
            return False
        first = self.linked.setdefault((entry.device, entry.inode), entry)
        same = all(getattr(first, key) == getattr(entry, key)
                   for key in ("type", "size", "extents", "content", "target", "rdev"))
        if first is entry or not same:
            return False
        parts = components(first.path)
        parent = os.dup(parent)
        try:
            os.link(parts[-1], name, src_dir_fd=self.directory(parts[:-1]), dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
        return True

    def write(self, entry: Entry, fd: int) -> None:
        extents = iter(entry.extents if entry.extents is not None else [(0, entry.size)])
        offset = room = 0
        for raw, _ in self.repository.chunks(entry.content):
            rest = memoryview(raw)
            while rest:
                if not room:
                    offset, room = next(extents)
                written = os.pwrite(fd, rest[:room], offset)
                rest, offset, room = rest[written:], offset + written, room - written
        os.ftruncate(fd, entry.size)

    def metadata(self, entry: Entry, parent: int, name: bytes, fd: int | None = None) -> None:
        """Owner, attributes, mode, times: in this order, since a new owner takes set-id bits and capabilities away."""
        place = fd if fd is not None else os.fsencode(f"/proc/self/fd/{parent}/") + name
        uid, gid = entry.owner[:2]
        mode = entry.mode
        if os.geteuid() == 0:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        elif (uid, gid) != (os.geteuid(), os.getegid()) and entry.type != DIRECTORY:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they would lend the rights of another owner than was meant
        for key, value in entry.attributes:
            try:
                os.setxattr(place, key, value, **({} if fd is not None else {"follow_symlinks": False}))
            except OSError as error:
                self.complain(f"{entry.show()}: attribute {key!r}: {error.strerror}")
        if entry.type != SYMLINK:
            os.chmod(fd if fd is not None else place, mode)
        nanoseconds = entry.mtime[0] * 10**9 + entry.mtime[1]
        os.utime(name, ns=(nanoseconds, nanoseconds), dir_fd=parent, follow_symlinks=False)


# --- Commands ---

class Complaints:
    """Says what is wrong, and remembers that something was."""

    def __init__(self):
        self.failed = False

    def __call__(self, message: str, failure: bool = True) -> None:
        self.failed |= failure
        print(f"reader: {message}", file=sys.stderr)


def select(snapshots: list[Snapshot], word: str) -> Snapshot:
    """`latest`, the name of a series (its newest), or the beginning of an id."""
    named = [snapshot for snapshot in snapshots if word in ("latest", snapshot.name)]
    if named:
        return named[-1]
    found = [snapshot for snapshot in snapshots if len(word) >= 4 and snapshot.id.startswith(word.lower())]
    require(found, f"there is no snapshot {word!r}; `list` shows all")
    require(len(found) == 1, f"{word!r} begins the id of {len(found)} snapshots")
    return found[0]


def verify(repository: Repository, snapshots: list[Snapshot], complain) -> None:
    done: set[Content] = set()
    for snapshot in snapshots:
        read = files = 0
        try:
            if snapshot.kind == "stream":
                read = sum(len(raw) for raw, _ in repository.chunks(snapshot.content))
            else:
                for entry in repository.tree(snapshot.content):
                    files += 1
                    if entry.content not in done:
                        read += sum(len(raw) for raw, _ in repository.chunks(entry.content))
                        done.add(entry.content)
        except PROBLEMS as error:
            complain(f"snapshot {snapshot.id[:8]} ({snapshot.name}): {error}")
            continue
        print(f"{snapshot.id[:8]}  {snapshot.name}  sound: {read} bytes read" + (f", {files} entries" if files else ""))
    print(f"{repository.decoded} frames decoded, deepest delta {repository.deepest}")


def verify_objects(repository: Repository, complain) -> None:
    """The names of all packs, the other records, and the log files."""
    records = [(kind, path) for kind in (TOMBSTONE, LEASE, PROOF, FORGOTTEN)
               for path in repository.paths(repository.root / PLACES[kind])]
    for check, objects in ((repository.record, records), (lambda _, path: repository.whole(path, MAX_PACK),
                                                          repository.pack_paths()),
                           (lambda _, path: [None for _ in repository.wal(path)], wal_paths(repository))):
        for kind, path in objects:
            try:
                check(kind, path)
            except PROBLEMS as error:
                complain(str(error))


def wal_paths(repository: Repository) -> list[tuple[int, Path]]:
    return [(WAL, path) for path in repository.paths(repository.root / PLACES[WAL])]


def list_wal(repository: Repository, complain) -> None:
    """The log files, by cluster and name."""
    heads = []
    for _, path in wal_paths(repository):
        try:
            heads.append(repository.wal_head(path))
        except PROBLEMS as error:
            complain(str(error))
    for head in sorted(heads):
        print(head.system_id, f"{head.name:40} {head.length:>11}")


def cat_wal(repository: Repository, system_id: int, name: str) -> None:
    require(WAL_NAME.fullmatch(name) and 0 <= system_id < 1 << 64, f"{name!r} is no name of a log file")
    path = repository.root / PLACES[WAL] / repository.keys.wal_name(system_id, name).hex()
    require(path.is_file(), f"{name} of cluster {system_id} is not archived")
    for raw in repository.wal(path):
        sys.stdout.buffer.write(raw)


def restore(repository: Repository, snapshot: Snapshot, target: Path, complain) -> None:
    target.mkdir(parents=True, exist_ok=True)
    require(not any(target.iterdir()), f"{target} is not empty")
    if snapshot.kind == "tree":
        return Restorer(repository, target, complain).run(snapshot.content)
    with (target / snapshot.name).open("xb") as file:
        for raw, _ in repository.chunks(snapshot.content):
            file.write(raw)


def cat(repository: Repository, snapshot: Snapshot, path: str | None) -> None:
    content = snapshot.content
    if snapshot.kind == "tree":
        require(path, "say which file of the tree")
        wanted = os.fsencode(path).strip(b"/")
        with closing(repository.tree(content, components(wanted))) as entries:
            entry = next((entry for entry in entries if entry.path == wanted), None)
        require(entry and entry.type == FILE, f"{path} is not a file of this snapshot")
        require(entry.extents is None, f"{path} has holes: use restore")
        content = entry.content
    for raw, _ in repository.chunks(content):
        sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def credential_of(arguments) -> Credential:
    if arguments.key_file:
        secret = Repository.limited(arguments.key_file, 32)
        require(len(secret) == 32, f"{arguments.key_file} is not a key file: it must have 32 bytes")
        return Credential("key-file", secret)
    return Credential("argon2id", arguments.password_file.read_bytes().removesuffix(b"\n").removesuffix(b"\r"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("repository", type=Path)
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--password-file", type=Path)
    secret.add_argument("--key-file", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the snapshots, oldest first")
    verify_parser = commands.add_parser("verify", help="read every byte and compare it with its ids")
    verify_parser.add_argument("snapshot", nargs="?")
    verify_parser.add_argument("--all", action="store_true", help="all snapshots, and all other objects")
    restore_parser = commands.add_parser("restore", help="into an empty directory; a stream becomes one file")
    restore_parser.add_argument("snapshot")
    restore_parser.add_argument("target", type=Path)
    cat_parser = commands.add_parser("cat", help="a stream, or one file of a tree, to standard output")
    cat_parser.add_argument("snapshot")
    cat_parser.add_argument("path", nargs="?")
    commands.add_parser("list-wal", help="the files of PostgreSQL's log: cluster, name, length")
    wal_parser = commands.add_parser("wal", help="a file of PostgreSQL's log, to standard output")
    wal_parser.add_argument("cluster", type=int)
    wal_parser.add_argument("name")
    arguments = parser.parse_args()
    if arguments.command == "verify" and arguments.all == bool(arguments.snapshot):
        parser.error("verify needs either a snapshot or --all")
    complain = Complaints()
    try:
        repository = Repository(arguments.repository, credential_of(arguments))
        if arguments.command in ("list-wal", "wal"):
            if arguments.command == "wal":
                cat_wal(repository, arguments.cluster, arguments.name)
            else:
                list_wal(repository, complain)
            return int(complain.failed)
        snapshots = repository.snapshots(complain)
        if arguments.command == "list":
            for snapshot in snapshots:
                print(snapshot.id[:8], snapshot.time, f"{snapshot.kind:6} {snapshot.content.bytes:>14}", snapshot.name)
            return int(complain.failed)
        chosen = None if arguments.command == "verify" and arguments.all else select(snapshots, arguments.snapshot)
        repository.scan(complain)
        if arguments.command == "verify":
            if chosen is None:
                verify_objects(repository, complain)
            verify(repository, [chosen] if chosen else snapshots, complain)
        elif arguments.command == "restore":
            restore(repository, chosen, arguments.target, complain)
        else:
            cat(repository, chosen, arguments.path)
    except PROBLEMS as error:
        complain(str(error))
    return int(complain.failed)


if __name__ == "__main__":
    sys.exit(main())
