#!/usr/bin/env python3
"""Makes the test vectors, beside this file or in the directory given.

Fixed keys and salts, the primitives of reader.py, and encoders of its own.

Shares no code with the Rust sources. Every vector is read back by reader.py before it is written. Output is the same
on each run, up to what another version of zstd compresses differently.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.dont_write_bytecode = True

import reader  # noqa: E402
import zstandard  # noqa: E402
from blake3 import blake3  # noqa: E402
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402
from reader import Content, Entry, Keys, varint  # noqa: E402

MASTER, REPOSITORY = bytes(range(32)), bytes(range(32, 64))
KEYS = Keys(MASTER, REPOSITORY)
TIME = "2026-03-01T02:30:00.25Z"


def stream(seed: str, length: int) -> bytes:
    """Bytes that look random and are always the same: BLAKE3's extendable output over the seed."""
    return blake3(seed.encode()).digest(length)


# --- Encoders ---

def zigzag(value: int) -> bytes:
    return varint((value << 1 ^ value >> 63) % (1 << 64))


def text(raw: bytes) -> bytes:
    return varint(len(raw)) + raw


def compress(raw: bytes, prefix: bytes = b"") -> bytes:
    known = zstandard.ZstdCompressionDict(prefix, zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
    return zstandard.ZstdCompressor(level=3, dict_data=known, write_dict_id=False).compress(raw)


def header(kind: int, salt: bytes) -> bytes:
    return b"CAIRN\0" + bytes([1, kind]) + salt


def seal(head: bytes, position: int, plain: bytes) -> bytes:
    nonce = position.to_bytes(8, "little") + bytes(4)
    return KEYS.object_cipher(head).encrypt(nonce, plain, KEYS.associated(head, position))


def node(level: int, entries: list, keyed: bool) -> bytes:
    out = (b"T" if keyed else b"L") + bytes([level])
    for id, size, path in entries:
        out += id + varint(size) + (text(path) if keyed else b"")
    return out


def block(entries: list[Entry]) -> bytes:
    out, before = b"R", Entry()
    for number, entry in enumerate(entries):
        shared = 0
        while shared < min(len(before.path), len(entry.path)) and before.path[shared] == entry.path[shared]:
            shared += 1
        same = number > 0 and entry.owner == before.owner
        flags = (same * reader.SAME_OWNER | bool(entry.attributes) * reader.ATTRIBUTES
                 | (entry.extents is not None) * reader.SPARSE | (entry.device is not None) * reader.LINKED
                 | entry.unstable * reader.UNSTABLE)
        out += varint(shared) + text(entry.path[shared:]) + bytes([entry.type, flags]) + varint(entry.mode)
        if not same:
            out += varint(entry.owner[0]) + varint(entry.owner[1]) + text(entry.owner[2]) + text(entry.owner[3])
        for time, earlier in ((entry.mtime, before.mtime), (entry.ctime, before.ctime)):
            out += zigzag(reader.signed(time[0] - earlier[0])) + varint(time[1])
        out += zigzag(reader.signed(entry.inode - before.inode))
        out += varint(entry.device) if entry.device is not None else b""
        out += body(entry)
        if entry.attributes:
            out += varint(len(entry.attributes))
            out += b"".join(text(name) + text(value) for name, value in entry.attributes)
        before = entry
    return out


def body(entry: Entry) -> bytes:
    if entry.type == reader.SYMLINK:
        return text(entry.target)
    if entry.type in (reader.CHAR_DEVICE, reader.BLOCK_DEVICE):
        return varint(entry.rdev[0]) + varint(entry.rdev[1])
    if entry.type != reader.FILE:
        return b""
    out = varint(entry.size)
    if entry.extents is not None:
        out, end = out + varint(len(entry.extents)), 0
        for offset, length in entry.extents:
            out, end = out + varint(offset - end) + varint(length), offset + length
    return out + (varint(entry.content.levels) + entry.content.root if entry.content.root else b"")


def pack(kind: int, salt: bytes, frames: list) -> tuple[bytes, bytes, list[bytes]]:
    """Frames are (depth, bases as chunks, chunks); gives the pack, the footer's body and the compressed frames."""
    head = header(kind, salt)
    stored, listed, compressed = head, varint(len(frames)), []
    for slot, (depth, bases, chunks) in enumerate(frames):
        compressed.append(compress(b"".join(chunks), b"".join(bases)))
        sealed = seal(head, slot, compressed[-1])
        stored += sealed
        listed += varint(len(sealed)) + bytes([depth]) + varint(len(bases))
        listed += b"".join(KEYS.chunk_id(base) for base in bases) + varint(len(chunks))
        listed += b"".join(varint(len(chunk)) for chunk in chunks)
        listed += b"".join(KEYS.chunk_id(chunk) for chunk in chunks)
    footer = seal(head, reader.FOOTER_POSITION, compress(listed))
    return stored + footer + len(footer).to_bytes(4, "little") + b"CEND", listed, compressed


# --- Vectors ---

def primitives() -> dict:
    numbers = [0, 1, 127, 128, 300, 16383, 16384, 2**32, 2**63, 2**64 - 1]
    signed = [0, -1, 1, -2, 63, -64, 64, 2**62, 2**63 - 1, -2**63]
    escaped = {"": b"", "/etc/plain": b"/etc/plain", "/srv/größe": "/srv/größe".encode(), "100%25": b"100%",
               "a%FFb%C3": b"a\xffb\xc3", "tab%09here%00": b"tab\there\x00", "%C2%85%7F": b"\xc2\x85\x7f",
               "%ED%A0%80": b"\xed\xa0\x80"}
    assert all(reader.unescape(text) == raw for text, raw in escaped.items())
    assert all(reader.Cursor(varint(n), "").varint() == n for n in numbers)
    assert all(reader.Cursor(zigzag(n), "").zigzag() == n for n in signed)
    # As strings, since not every JSON library keeps 64 bits.
    return {"varint": [{"value": str(n), "hex": varint(n).hex()} for n in numbers],
            "zigzag": [{"value": str(n), "hex": zigzag(n).hex()} for n in signed],
            "escaped": [{"hex": raw.hex(), "text": text} for text, raw in escaped.items()]}


def path_hash(path: bytes) -> int:
    return int.from_bytes(blake3(path, key=KEYS.path).digest(4), "little")


def gear_table() -> list[int]:
    table = blake3(b"", key=KEYS.chunker).digest(2048)
    return [int.from_bytes(table[8 * i:8 * i + 8], "little") for i in range(256)]


def keys() -> dict:
    chunks = [b"", b"a", b"cairn" * 1000]
    paths = [b"", b"etc", b"etc/passwd", b"a\xff/b"]
    return {"derived": {"chunk_id": KEYS.chunk_id_key.hex(), "seal": KEYS.seal.hex(), "chunker": KEYS.chunker.hex(),
                        "path": KEYS.path.hex(), "configuration": KEYS.configuration.hex(), "wal": KEYS.wal.hex()},
            "chunk_ids": [{"raw": raw.hex(), "id": KEYS.chunk_id(raw).hex()} for raw in chunks],
            "path_hashes": [{"path": path.hex(), "hash": path_hash(path)} for path in paths],
            "gear": [f"{value:016x}" for value in gear_table()]}


def config() -> dict:
    value = {"version": 1, "id": REPOSITORY.hex(), "features": [], "created": "2026-03-01T02:30:00Z",
             "chunk_sizes": {"min": 4096, "average": 16384, "max": 65536}}
    fields = reader.configuration_fields(value)
    value["mac"] = blake3(fields, key=KEYS.configuration).hexdigest()
    return {"fields": fields.hex(), "mac": value["mac"], "stored": json.dumps(value, indent=2)}


def key_objects() -> dict:
    found = {}
    cost = {"memory_kib": 64, "passes": 2, "lanes": 2}
    for label, method, secret, extra in (("office", "argon2id", "päss word".encode(), cost),
                                         ("robot ✓", "key-file", stream("key file", 32), {})):
        derivation = {"method": method, **extra, "salt": stream(label, 32).hex()}
        value = {"version": 1, "label": label, "created": "2026-03-01T02:30:00Z", "derivation": derivation}
        credential = reader.Credential(method, secret)
        wrapping, associated = credential.wrapping_key(derivation), reader.key_associated(REPOSITORY, value)
        value["wrapped"] = AESGCM(wrapping).encrypt(bytes(12), MASTER, associated).hex()
        assert reader.unwrap(value, REPOSITORY, credential) == MASTER
        assert reader.unwrap(value | {"label": "other"}, REPOSITORY, credential) is None
        found[method] = {"secret": secret.hex(), "wrapping_key": wrapping.hex(), "associated": associated.hex(),
                         "stored": json.dumps(value, indent=2, ensure_ascii=False)}
    return found


def envelope() -> dict:
    head = header(reader.SNAPSHOT, stream("envelope", 32))
    lengths = {0: 0, 1: 40, 2**40: 5, 1 << 63: 17}
    parts = [(position, stream(f"part {position}", length)) for position, length in lengths.items()]
    sealed = [seal(head, position, plain) for position, plain in parts]
    for (position, plain), part in zip(parts, sealed):
        assert KEYS.open(reader.SNAPSHOT, head, position, part, "part") == plain
    return {"kind": reader.SNAPSHOT, "header": head.hex(), "object_key": blake3(head, key=KEYS.seal).hexdigest(),
            "parts": [{"position": f"{position:016x}", "associated": KEYS.associated(head, position).hex(),
                       "plain": plain.hex(), "sealed": part.hex()} for (position, plain), part in zip(parts, sealed)]}


def packs() -> dict:
    base, other = stream("base", 3000), b"table row\n" * 200
    delta = [base[:1500] + b"changed" + base[1500:], base[1000:2900]]
    frames = [(0, [], [base, other]), (1, [other, base], delta)]
    stored, listed, compressed = pack(reader.DATA, stream("pack", 32), frames)
    assert len(compressed[1]) < 400, "the delta does not use its prefix"
    end = len(stored) - 8 - int.from_bytes(stored[-8:-4], "little")
    found = list(reader.decode_footer(reader.Pack(1, Path("x"), stored[:40]), listed, end))
    assert [frame.depth for frame, _ in found] == [0, 1]
    assert found[1][0].bases == [KEYS.chunk_id(other), KEYS.chunk_id(base)]
    described = [{"depth": depth, "bases": [KEYS.chunk_id(chunk).hex() for chunk in bases],
                  "chunks": [{"id": KEYS.chunk_id(chunk).hex(), "raw": chunk.hex()} for chunk in chunks],
                  "compressed": zstd.hex()} for (depth, bases, chunks), zstd in zip(frames, compressed)]
    return {"kind": reader.DATA, "stored": stored.hex(), "name": blake3(stored).hexdigest(),
            "footer_body": listed.hex(), "frames": described}


def lists() -> dict:
    plain = [(KEYS.chunk_id(bytes([i])), size, None) for i, size in enumerate((1, 16384, 2**40))]
    keyed = [(KEYS.chunk_id(bytes([i])), 100 + i, path) for i, path in enumerate((b"", b"etc/passwd", b"srv/\xff"))]
    found = []
    for level, entries, is_keyed in ((1, plain, False), (3, keyed, True)):
        raw = node(level, entries, is_keyed)
        assert reader.decode_node(raw, level, is_keyed) == entries
        found.append({"keyed": is_keyed, "level": level, "raw": raw.hex(), "entries": [
            {"id": id.hex(), "bytes": size} | ({"first_path": path.hex()} if is_keyed else {})
            for id, size, path in entries]})
    starts = ("00000000", "80000000", "80ff0000", "40000000", "00010000", "01000000")
    ids = [bytes.fromhex(start + "55" * 12) for start in starts]
    cuts = [{"id": id.hex(), "cut": int.from_bytes(id[:4], "little") % 128 == 0} for id in ids]
    return {"nodes": found, "cuts": cuts}


def tree() -> dict:
    root, list_root = KEYS.chunk_id(b"content"), KEYS.chunk_id(b"list")
    own, more = (0, 0, b"root", b"root"), (1000, 2**32 - 1, b"user", b"")
    entries = [
        Entry(b"", reader.DIRECTORY, 0o755, own, (1700000000, 5), (1700000001, 999999999), 2),
        Entry(b"a", reader.DIRECTORY, 0o1777, own, (-1, 0), (0, 0), 2**64 - 1),
        Entry(b"a/empty", reader.FILE, 0o644, own, (1700000000, 0), (1700000000, 0), 12),
        Entry(b"a/file", reader.FILE, 0o4755, more, (1700000100, 1), (1700000100, 2), 13, size=7,
              content=Content(7, 0, root)),
        Entry(b"a/hole", reader.FILE, 0o600, more, (1, 0), (1, 0), 14, size=1 << 40, extents=[]),
        Entry(b"a/linked", reader.FILE, 0o600, more, (1, 0), (1, 0), 15, device=64769, size=9 << 20,
              content=Content(9 << 20, 2, list_root)),
        Entry(b"a/sparse", reader.FILE, 0o600, own, (1, 0), (1, 0), 16, unstable=True, size=1 << 33,
              extents=[(0, 4096), (8192, 1), (1 << 32, 4096)], content=Content(8193, 1, list_root),
              attributes=((b"security.selinux", b"x\0"), (b"user.note", b""))),
        Entry(b"a/sub", reader.DIRECTORY, 0, own, (1, 0), (1, 0), 17),
        Entry(b"a/sub/\xff" + b"n" * 254, reader.SYMLINK, 0o777, own, (1, 0), (1, 0), 18, target=b"../\xff/target"),
        Entry(b"a-b", reader.FIFO, 0o600, own, (1, 0), (1, 0), 19, attributes=((b"user.a", b"b" * 300),)),
        Entry(b"char", reader.CHAR_DEVICE, 0o600, own, (1, 0), (1, 0), 20, rdev=(1, 3)),
        Entry(b"disk", reader.BLOCK_DEVICE, 0o660, (0, 6, b"root", b"disk"), (1, 0), (1, 0), 21,
              rdev=(2**32 - 1, 2**20)),
        Entry(b"socket", reader.SOCKET, 0o755, own, (1, 0), (1, 0), 22),
        Entry(b"unread", reader.UNREAD, 0, own, (-(2**63), 0), (2**63 - 1, 0), 0),
    ]
    raw = block(entries)
    assert list(reader.decode_block(raw)) == entries
    paths = [f"dir/file-{i}".encode() for i in range(400)]
    return {"raw": raw.hex(), "entries": [entry_json(entry) for entry in entries],
            "cuts": [{"path": path.hex(), "hash": path_hash(path), "cut": path_hash(path) % 64 == 0}
                     for path in paths if path_hash(path) % 64 in (0, 1, 32)][:12],
            "order": [p.hex() for p in sorted((b"", b"a", b"a/z", b"a/z/y", b"a-b", b"a.b/c", b"ab", b"\xff", b"a/-"),
                                              key=reader.components)]}


def entry_json(entry: Entry) -> dict:
    uid, gid, user, group = entry.owner
    found = {"path": entry.path.hex(), "type": entry.type, "mode": entry.mode, "uid": uid, "gid": gid,
             "user": user.hex(), "group": group.hex(), "mtime": entry.mtime, "ctime": entry.ctime,
             "inode": str(entry.inode), "unstable": entry.unstable,
             "attributes": [[name.hex(), value.hex()] for name, value in entry.attributes]}
    if entry.device is not None:
        found["device"] = entry.device
    if entry.type == reader.FILE:
        size, levels, root = entry.content
        found["content"] = {"bytes": size, "levels": levels, "root": root and root.hex()}
        found |= {"size": entry.size} | ({"extents": entry.extents} if entry.extents is not None else {})
    if entry.type == reader.SYMLINK:
        found["target"] = entry.target.hex()
    if entry.type in (reader.CHAR_DEVICE, reader.BLOCK_DEVICE):
        found["rdev"] = entry.rdev
    return found


def records() -> dict:
    id = [stream(f"object {i}", 32).hex() for i in range(3)]
    content = {"bytes": 81920, "levels": 1, "root": KEYS.chunk_id(b"list").hex()}
    names = ("files", "directories", "others", "unchanged_files", "unread", "bytes", "read_bytes", "new_bytes",
             "stored_bytes", "milliseconds")
    snapshot = {"name": "etc", "host": "db1", "time": TIME, "kind": "tree",
                "paths": ["/etc", "/srv/100%25", "/srv/%FF"], "tags": {"job": "nightly", "site": "größe"},
                "content": content, "parent": id[0], "previous": None,
                "summary": {name: i for i, name in enumerate(names)}, "program": "cairn 0.1.0"}
    values = {
        reader.SNAPSHOT: snapshot,
        reader.TOMBSTONE: {"time": TIME, "grace_seconds": 86400,
                           "packs": [{"id": id[0], "meta": True, "dead": "0581"}]},
        reader.LEASE: {"host": "db1", "machine": "boot 7 pid:[4026531836]", "process": 4242, "time": TIME,
                       "purpose": "collect", "lifetime_seconds": 604800},
        reader.PROOF: {"snapshot": id[1], "time": TIME, "bytes": 81920, "milliseconds": 12, "host": "db1",
                       "program": "cairn 0.1.0"},
        reader.FORGOTTEN: {"time": TIME, "host": "db1",
                           "snapshots": [{"id": id[2], "name": "etc", "time": TIME, "reason": "older than all rules"}]},
    }
    place = {"set": id[2], "component": "postgres"}
    rest = {"compared": "2 tables", "versions": {"postgresql": "11.22"}, "restore_milliseconds": 9,
            "compare_milliseconds": 3}
    drill = {**place, "outcome": "equal", **rest}
    found = {**place, "outcome": "different", "differences": ["table \"größe\" has 2 rows, and 3 were recorded"], **rest}
    drilled = [(f"record {reader.PROOF} of a {what}", reader.PROOF, {**values[reader.PROOF], "drill": drill})
               for what, drill in (("drill", drill), ("difference", found))]
    found = []
    for salt, kind, value in [(f"record {kind}", kind, value) for kind, value in values.items()] + drilled:
        head = header(kind, stream(salt, 32))
        raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        stored = head + seal(head, 0, compress(raw))
        assert reader.decompress(KEYS.open(kind, head, 0, stored[40:], "record"), reader.MAX_RECORD, "record") == raw
        found.append({"kind": kind, "json": raw.decode(), "stored": stored.hex(), "name": blake3(stored).hexdigest()})
    return {"records": found}


def wal() -> dict:
    """A segment of two blocks, most of it zeros, and a history file."""
    def number(value: int, length: int) -> bytes:
        return value.to_bytes(length, "little")
    found = []
    history = b"1\t0/3000000\tno recovery target specified\n"
    for name, raw, block in (("000000010000000A000000FE", stream("segment", 5000).ljust(1 << 20, b"\0"), 1 << 19),
                             ("00000002.history", history, 1 << 21)):
        head = header(reader.WAL, stream(name, 32))
        blocks = [seal(head, slot, compress(raw[at:at + block])) for slot, at in enumerate(range(0, len(raw), block))]
        plain = number(7012345678901234567, 8) + number(len(raw), 8) + number(1767225600000001, 8) + blake3(raw).digest()
        plain += number(block, 4) + number(len(blocks), 1) + number(len(name), 1) + bytes(2) + name.encode().ljust(64, b"\0")
        plain += b"".join(number(len(sealed), 4) for sealed in blocks)
        plain = plain.ljust(reader.PLAIN_HEAD, b"\0")
        decoded = reader.decode_wal_head(plain)
        assert (decoded.name, decoded.hash, decoded.length) == (name, blake3(raw).digest(), len(raw))
        stored = head + seal(head, 1 << 63, plain) + b"".join(blocks)
        found.append({"system_id": str(decoded.system_id), "name": name, "plain_head": plain.hex(), "stored": stored.hex(),
                      "object": KEYS.wal_name(decoded.system_id, name).hex(), "raw_hash": blake3(raw).hexdigest(),
                      "raw_len": len(raw)})
    return {"files": found}


MASKS = {7: 0x18035100, 8: 0x1800035300, 9: 0x19000353000, 10: 0x590003530000, 11: 0xd90003530000, 12: 0xd90103530000,
         13: 0xd90303530000, 14: 0xd90313530000, 15: 0xd90f03530000, 16: 0xd90303537000, 17: 0xd90703537000,
         18: 0xd90707537000, 19: 0xd91707537000, 20: 0xd91747537000}


def cut(gear: list[int], data: memoryview, least: int, average: int, most: int) -> int:
    """Section 16, as it is written there."""
    if len(data) <= least:
        return len(data)
    end, centre, word = min(len(data), most), min(len(data), average), (1 << 64) - 1
    small, large = MASKS[average.bit_length()], MASKS[average.bit_length() - 2]
    value = 0
    for i in range(least // 2, end // 2):
        mask = small if i < centre // 2 else large
        value = (value << 2) + (gear[data[2 * i]] << 1 & word) & word
        if value & mask << 1 & word == 0:
            return 2 * i
        value = value + gear[data[2 * i + 1]] & word
        if value & mask == 0:
            return 2 * i + 1
    return end


def chunker() -> dict:
    gear, found = gear_table(), []
    for seed, length, sizes in (("stream", 300_001, (4096, 16384, 65536)), ("stream", 60_000, (64, 256, 1024)),
                                (None, 150_000, (4096, 16384, 65536)), ("short", 100, (128, 512, 2048))):
        data = memoryview(stream(seed, length) if seed else bytes(length))
        cuts, at = [], 0
        while at < length:
            cuts.append(cut(gear, data[at:], *sizes))
            at += cuts[-1]
        named = dict(zip(("min", "average", "max"), sizes))
        found.append({"seed": seed, "length": length, "sizes": named, "cuts": cuts})
    return {"streams": found}


def refused() -> dict:
    """What every reader must refuse."""
    id, entry = KEYS.chunk_id(b"x"), Entry(b"a", reader.FILE, 0o644, size=1, content=Content(1, 0, KEYS.chunk_id(b"x")))
    tail = block([Entry(b"a", reader.FIFO)])[4:]  # all of a record behind shared, length and one byte of path
    path = lambda raw: b"R\0" + text(raw) + tail
    frame = lambda length=100, depth=0, bases=b"\0", chunks=b"\x01\x05" + id: \
        b"\x01" + varint(length) + bytes([depth]) + bases + chunks
    blocks = {
        "empty": b"", "tag only": b"R", "other tag": b"S" + block([entry])[1:], "left over": block([entry]) + b"\0",
        "cut short": block([entry])[:-1], "parent directory": path(b".."), "parent directory within": path(b"a/../b"),
        "dot": path(b"a/."), "absolute": path(b"/etc"), "trailing slash": path(b"a/"), "double slash": path(b"a//b"),
        "zero byte": path(b"a\0b"), "component of 256 bytes": path(b"n" * 256),
        "path too long": path(b"n/" * 32768 + b"n"),
        "same path twice": block([Entry(b"a"), Entry(b"a")]), "not in order": block([Entry(b"a-b"), Entry(b"a/b")]),
        "first record shares": b"R\x01" + block([Entry(b"a")])[2:], "unknown type": block([Entry(b"a", 8)]),
        "unknown flag": b"R\0\x01a\x03\x20" + block([Entry(b"a", 3)])[6:],
        "same owner first": b"R\0\x01a\x03\x01" + block([Entry(b"a", 3)])[6:],
        "mode": block([Entry(b"a", mode=0o10000)]),
        "sparse directory": b"R\0\x01a\0\x04" + block([Entry(b"a")])[6:],
        "nanoseconds": block([Entry(b"a", mtime=(0, 10**9))]), "uid": block([Entry(b"a", owner=(2**32, 0, b"", b""))]),
        "user name": block([Entry(b"a", owner=(0, 0, b"u" * 4097, b""))]),
        "file size": block([Entry(b"a", reader.FILE, size=2**63, content=Content(1, 0, id))]),
        "list height": block([Entry(b"a", reader.FILE, size=1, content=Content(1, 13, id))]),
        "touching extents": block([Entry(b"a", reader.FILE, size=9, extents=[(0, 2), (2, 2)],
                                         content=Content(4, 0, id))]),
        "empty extent": block([Entry(b"a", reader.FILE, size=9, extents=[(0, 0)])]),
        "extent after the end": block([Entry(b"a", reader.FILE, size=9, extents=[(8, 2)], content=Content(2, 0, id))]),
        "target too long": block([Entry(b"a", reader.SYMLINK, target=b"t" * 4097)]),
        "attribute name": block([Entry(b"a", attributes=((b"n" * 256, b""),))]),
        "attributes together": block([Entry(b"a", attributes=((b"a", bytes(300 << 10)), (b"b", bytes(300 << 10))))]),
        "1025 records": block([Entry(b"%04d" % i) for i in range(1025)]),
        "block too long": block([Entry(b"%04d" % i, reader.SYMLINK, target=b"t" * 4096) for i in range(300)]),
    }
    nodes = {
        "empty": b"", "no entries": b"L\x01", "keyed": node(1, [(id, 5, b"a")], True),
        "other level": node(2, [(id, 5, b"")], False), "no bytes": node(1, [(id, 0, b"")], False),
        "cut short": node(1, [(id, 5, b"")], False)[:-1],
        "1025 entries": node(1, [(id, 5, b"")] * 1025, False), "long integer": b"L\x01" + id + b"\xff" * 9 + b"\x02",
    }
    footers = {
        "empty": b"", "left over": frame() + b"\0", "frames do not fill": frame(99), "frames overflow": frame(101),
        "no chunks": frame(chunks=b"\0"), "chunk of no bytes": frame(chunks=b"\x01\0" + id),
        "chunk too long": frame(chunks=b"\x01" + varint((4 << 20) + 1) + id),
        "frame too long": frame(chunks=b"\x03" + varint(4 << 20) * 3 + id * 3),
        "too many chunks": frame(chunks=varint(65537)),
        "depth without bases": frame(depth=1), "bases without depth": frame(bases=b"\x01" + id),
        "depth 9": frame(depth=9, bases=b"\x01" + id), "too many bases": frame(depth=1, bases=varint(65537)),
        "too many frames": varint(65537), "sealed frame too long": frame((16 << 20) + 1),
        "no room for a tag": frame(15),
    }
    found = []
    for what, cases, decode in (
            ("block", blocks, lambda raw: list(reader.decode_block(raw))),
            ("node", nodes, lambda raw: reader.decode_node(raw, 1, False)),
            ("footer", footers, lambda raw: list(reader.decode_footer(reader.Pack(1, Path("x"), b""), raw, 140)))):
        decode({"block": block([entry]), "node": node(1, [(id, 5, b"")], False), "footer": frame()}[what])
        for why, raw in cases.items():
            try:
                decode(raw)
            except reader.Invalid:
                # Long cases are repetitive: zstd keeps this file small.
                found.append({"what": what, "why": why, "zstd": compress(raw).hex()})
            else:
                raise AssertionError(f"reader.py accepts a {what}: {why}")
    return {"footers_end_at": 140, "cases": found}


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    common = {"master": MASTER.hex(), "repository": REPOSITORY.hex()}
    for name, make in (("primitives", primitives), ("keys", keys), ("config", config), ("key-objects", key_objects),
                       ("envelope", envelope), ("pack", packs), ("list", lists), ("tree", tree), ("record", records),
                       ("wal", wal), ("chunker", chunker), ("refused", refused)):
        value = json.dumps(common | make(), indent=1, ensure_ascii=False)
        (directory / f"{name}.json").write_text(value + "\n")
        print(f"{name}.json: {len(value)} bytes")


if __name__ == "__main__":
    main()
