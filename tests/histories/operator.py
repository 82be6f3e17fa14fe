#!/usr/bin/python3
"""The operator and the guests of a history: does to images what people and their programs do.

Reads one JSON request a line and answers with one JSON line; `read` lets the bytes follow. Where a step needs an image, a
snapshot or a place, its numbers (of 32 bits) say how far along the list of those that are there: the same steps stay meaningful
when some of them are left out. What Ceph declines is an answer like any other.
"""

import contextlib
import json
import os
import sys
import tempfile

import rados
import rbd

END = 1 << 32
NAMES = ["a", "b", "c", "d", "e"]
BLOCK = 4096
MAPS = rbd.RBD_FEATURE_OBJECT_MAP | rbd.RBD_FEATURE_FAST_DIFF
PLAIN = rbd.RBD_FEATURE_LAYERING | rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_DEEP_FLATTEN
MIGRATING = 1 << 9
MAGIC = b"value %d of block %06x. "


class Nothing(Exception):
    """There is nothing that the step could be done to."""


def along(n, items):
    if not items:
        raise Nothing
    return items[n * len(items) // END]


def content(value, offset, length):
    """Bytes of which each value has its own at each place; 0 is zeros."""
    if value == 0:
        return bytes(length)
    first, last = offset // BLOCK, (offset + length + BLOCK - 1) // BLOCK
    blocks = []
    for number in range(first, last):
        line = MAGIC % (value, number)
        blocks.append((line * (BLOCK // len(line) + 1))[:BLOCK])
    data = b"".join(blocks)
    start = offset - first * BLOCK
    return data[start:start + length]


class Operator:
    def __init__(self, conf, pool):
        self.cluster = rados.Rados(conffile=conf)
        # Clones need no protected snapshot then, and a parent's snapshot may go to the trash; both kinds are made below.
        self.cluster.conf_set("rbd_move_parent_to_trash_on_remove", "true")
        self.cluster.conf_set("rados_osd_op_timeout", "60")
        self.cluster.conf_set("rados_mon_op_timeout", "60")
        self.cluster.connect()
        self.pool = pool
        self.rbd = rbd.RBD()
        self.guests = {}
        # By name; the bindings of 16.2 cannot list a trash in which the source of a migration lies.
        self.trashed = {}
        self.made = 0
        self.command("osd pool create", pool=pool, pg_num=4, pgp_num=4)
        self.io = self.cluster.open_ioctx(pool)
        self.rbd.pool_init(self.io, True)
        self.files = tempfile.mkdtemp(prefix="histories-")

    def command(self, prefix, **arguments):
        code, _, said = self.cluster.mon_command(json.dumps({"prefix": prefix, **arguments}), b"")
        if code != 0:
            raise RuntimeError(f"{prefix}: {said}")

    # Everything before and after a history.

    def wipe(self, n):
        """Forgets all images by brute force: whatever state they are in, it is the next history's turn."""
        for name in list(self.guests):
            with contextlib.suppress(rbd.Error):
                self.guests.pop(name).close()
        for thing in list(self.io.list_objects()):
            if thing.key != "rbd_info":
                with contextlib.suppress(rados.Error):
                    thing.remove()
        self.trashed = {}
        self.made = 0

    def end(self, n):
        self.wipe(n)
        self.io.close()
        self.command("osd pool rm", pool=self.pool, pool2=self.pool, yes_i_really_really_mean_it=True)
        for name in os.listdir(self.files):
            os.unlink(os.path.join(self.files, name))
        os.rmdir(self.files)

    # What is there.

    def names(self):
        return sorted(self.rbd.list(self.io))

    def pick(self, n):
        return along(n, self.names())

    def fresh(self, n):
        taken = [*self.names(), *self.trashed]
        return along(n, [name for name in NAMES if name not in taken])

    def open(self, name, **how):
        return rbd.Image(self.io, name, **how)

    @contextlib.contextmanager
    def guest(self, name):
        """The handle of the guest that has the image open, else one of its own."""
        if name in self.guests:
            yield self.guests[name]
        else:
            with self.open(name) as image:
                yield image

    def snapshots(self, image):
        """Those of users, oldest first."""
        users = (s for s in image.list_snaps() if s["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_USER)
        return sorted(users, key=lambda s: s["id"])

    def snapshot(self, image, n):
        return along(n, self.snapshots(image))["name"]

    def look(self):
        images = []
        for name in self.names():
            with self.open(name, read_only=True) as image:
                flags = image.features()
                images.append({
                    "name": name, "id": image.id(), "guest": name in self.guests,
                    "migrating": bool(flags & MIGRATING),
                    "snapshots": [{k: s[k] for k in ("id", "name")} for s in self.snapshots(image)],
                })
        return images

    def read(self, request):
        """All of an image, or of one snapshot of it by id."""
        with self.open(None, image_id=request["id"], read_only=True) as image:
            if request["snapshot"] is not None:
                image.set_snap_by_id(request["snapshot"])
            size = image.size()
            return image.read(0, size) if size else b""

    def still(self, image):
        """Nobody removes snapshots under a migration: in 16.2 that alone kills who writes next."""
        if image.features() & MIGRATING:
            raise Nothing

    # What is done. Each takes its numbers and says what it did.

    def create(self, n):
        name, order = self.fresh(n[0]), along(n[1], [16, 16, 16, 17, 18, 12])
        objects = 4 + along(n[2], range(13))
        size = (objects << order) - along(n[3], [0, 0, 0, 12345 % (1 << order), 512])
        features = along(n[3] * 7919 % END, [PLAIN | MAPS] * 7 + [PLAIN])
        striping = {}
        if n[2] % 16 == 0 and order > 12:
            striping = {"stripe_unit": 1 << (order - 2), "stripe_count": 3}
            features |= rbd.RBD_FEATURE_STRIPINGV2
        self.rbd.create(self.io, name, size, order=order, old_format=False, features=features, **striping)
        return f"create {name}: {size} bytes, objects of 2^{order}, features {features:x} {striping or ''}"

    def place(self, image, n):
        """A range: mostly in few objects, mostly aligned, sometimes over a border, sometimes whole objects."""
        size, object_size = image.size(), 1 << image.stat()["order"]
        if size == 0:
            raise Nothing
        hot = [0, 1, 2, (size - 1) // object_size, n[1] * (size // object_size + 1) // END]
        start = min(along(n[1] * 31 % END, hot) * object_size, size - 1)
        kind = n[2] % 8
        if kind < 3:
            at, length = start, object_size
        elif kind == 3:
            at, length = start, 2 * object_size
        elif kind < 6:
            at = start + n[2] // 8 % max(object_size // BLOCK, 1) * BLOCK
            length = BLOCK
        else:
            at = start + n[2] // 8 % object_size // 512 * 512
            length = 512 * (1 + n[3] // 8 % (2 * object_size // 512))
        at = min(at, size - 1)
        return at, min(length, size - at)

    def write(self, n):
        name = self.pick(n[0])
        with self.guest(name) as image:
            (at, length), value = self.place(image, n), n[3] % 6
            image.write(content(value, at, length), at)
            if n[3] & 64:
                image.flush()
        return f"write {name}: {length} bytes at {at}, value {value}"

    def discard(self, n):
        name = self.pick(n[0])
        with self.guest(name) as image:
            at, length = self.place(image, n)
            image.discard(at, length)
        return f"discard {name}: {length} bytes at {at}"

    def write_zeroes(self, n):
        name = self.pick(n[0])
        with self.guest(name) as image:
            at, length = self.place(image, n)
            image.write_zeroes(at, length)
        return f"write-zeroes {name}: {length} bytes at {at}"

    def resize(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            size, object_size = image.size(), 1 << image.stat()["order"]
            objects = (size + object_size - 1) // object_size
            wanted = along(n[1], [objects - 1, objects - 2, objects // 2, objects + 1, objects + 2, objects + 3])
            new = max(min(wanted, 24), 1) * object_size - along(n[2], [0, 0, 0, 512, object_size // 2])
            image.resize(new, True)
        return f"resize {name}: {size} to {new} bytes"

    def snap(self, n):
        name = self.pick(n[0])
        number = self.made if n[1] % 8 else n[1] // 8 % (self.made + 1)
        with self.open(name) as image:
            image.create_snap(f"s{number}")
        self.made = max(self.made, number + 1)
        return f"snap create {name}@s{number}"

    def unsnap(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            self.still(image)
            snapshot = self.snapshot(image, n[1])
            image.remove_snap(snapshot)
        return f"snap rm {name}@{snapshot}"

    def unsnap_all(self, n):
        """All that were made by people: those of the backups stay."""
        name, gone = self.pick(n[0]), []
        with self.open(name) as image:
            self.still(image)
            for snapshot in self.snapshots(image):
                with contextlib.suppress(rbd.Error):
                    if snapshot["name"].startswith("s"):
                        image.remove_snap(snapshot["name"])
                        gone.append(snapshot["name"])
        return f"snap rm {name}: {' '.join(gone)}"

    def snap_rename(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            snapshot = self.snapshot(image, n[1])
            image.rename_snap(snapshot, f"s{self.made}")
        self.made += 1
        return f"snap rename {name}@{snapshot} s{self.made - 1}"

    def protect(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            snapshot = self.snapshot(image, n[1])
            image.protect_snap(snapshot)
        return f"snap protect {name}@{snapshot}"

    def unprotect(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            snapshot = self.snapshot(image, n[1])
            image.unprotect_snap(snapshot)
        return f"snap unprotect {name}@{snapshot}"

    def rollback(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            snapshot = self.snapshot(image, n[1])
            image.rollback_to_snap(snapshot)
        return f"snap rollback {name}@{snapshot}"

    def clone(self, n):
        name, child = self.pick(n[0]), self.fresh(n[2])
        with self.open(name) as image:
            snapshot = self.snapshot(image, n[1])
            second = bool(n[3] & 1)
            if not second and not image.is_protected_snap(snapshot):
                image.protect_snap(snapshot)
        self.cluster.conf_set("rbd_default_clone_format", "2" if second else "1")
        features = None if n[3] % 8 else PLAIN
        self.rbd.clone(self.io, name, snapshot, self.io, child, features=features)
        return f"clone {name}@{snapshot} {child}: format {2 if second else 1} {'' if features is None else 'without maps'}"

    def flatten(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            image.flatten()
        return f"flatten {name}"

    def rename(self, n):
        name, new = self.pick(n[0]), self.fresh(n[1])
        if name in self.guests:
            raise Nothing
        self.rbd.rename(self.io, name, new)
        return f"rename {name} {new}"

    def remove(self, n):
        """With its snapshots, and mostly made anew under the same name, with some content."""
        name = self.pick(n[0])
        self.detach_from(name)
        with self.open(name) as image:
            self.still(image)
            size, order = image.size(), image.stat()["order"]
            for snapshot in self.snapshots(image):
                if image.is_protected_snap(snapshot["name"]):
                    image.unprotect_snap(snapshot["name"])
                image.remove_snap(snapshot["name"])
        self.rbd.remove(self.io, name)
        if n[1] % 4 == 0:
            return f"rm {name}"
        self.rbd.create(self.io, name, size, order=order, old_format=False, features=PLAIN | MAPS)
        with self.open(name) as image:
            image.write(content(n[2] % 6, 0, size), 0)
        return f"rm {name}, create it anew: {size} bytes of value {n[2] % 6}"

    def deep_copy(self, n):
        name, copy = self.pick(n[0]), self.fresh(n[1])
        with self.open(name, read_only=True) as image:
            image.deep_copy(self.io, copy)
        return f"deep cp {name} {copy}"

    def trash(self, n):
        name = self.pick(n[0])
        self.detach_from(name)
        with self.open(name, read_only=True) as image:
            known = image.id()
        self.rbd.trash_move(self.io, name)
        self.trashed[name] = known
        return f"trash mv {name}"

    def untrash(self, n):
        name = along(n[0], sorted(self.trashed))
        self.rbd.trash_restore(self.io, self.trashed[name], name)
        del self.trashed[name]
        return f"trash restore {name}"

    def map_off(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            image.update_features(MAPS & image.features(), False)
        return f"feature disable {name} object-map fast-diff"

    def map_on(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            image.update_features(MAPS & ~image.features(), True)
        return f"feature enable {name} object-map fast-diff"

    def map_rebuild(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            snapshot = along(n[1], [None, *(s["name"] for s in self.snapshots(image))])
        with self.open(name, snapshot=snapshot) as image:
            image.rebuild_object_map()
        return f"object-map rebuild {name}{'@' + snapshot if snapshot else ''}"

    def sparsify(self, n):
        name = self.pick(n[0])
        with self.open(name) as image:
            image.sparsify(BLOCK)
        return f"sparsify {name}"

    # A guest holds the image open, its lock and its cache.

    def attach(self, n):
        name = self.pick(n[0])
        if name in self.guests:
            raise Nothing
        image = self.open(name)
        if image.features() & MIGRATING:
            image.close()
            raise Nothing
        self.guests[name] = image
        return f"a guest has {name} open"

    def detach(self, n):
        name = along(n[0], sorted(self.guests))
        self.detach_from(name)
        return f"the guest closes {name}"

    def detach_from(self, name):
        if name in self.guests:
            self.guests.pop(name).close()

    # Groups: their snapshots count among those of the image, and nobody sees them.

    def group(self):
        if "g" not in self.rbd.group_list(self.io):
            self.rbd.group_create(self.io, "g")
        return rbd.Group(self.io, "g")

    def group_snapshot(self, n):
        return along(n, sorted(s["name"] for s in self.group().list_snaps()))

    def group_snap(self, n):
        name, group = self.pick(n[0]), self.group()
        if name not in [image["name"] for image in group.list_images()]:
            group.add_image(self.io, name)
        group.create_snap(f"g{self.made}")
        self.made += 1
        return f"group snap create g@g{self.made - 1}, of {name} too"

    def group_unsnap(self, n):
        name = self.group_snapshot(n[0])
        for member in self.group().list_images():
            with self.open(member["name"], read_only=True) as image:
                self.still(image)
        self.group().remove_snap(name)
        return f"group snap rm g@{name}"

    def group_rollback(self, n):
        name = self.group_snapshot(n[0])
        self.group().rollback_to_snap(name)
        return f"group snap rollback g@{name}"

    def group_leave(self, n):
        name = along(n[0], sorted(image["name"] for image in self.group().list_images()))
        self.group().remove_image(self.io, name)
        return f"group image rm g {name}"

    # Live migration, within the pool and from a file.

    def moving(self, n):
        def is_moving(name):
            with self.open(name, read_only=True) as image:
                return image.features() & MIGRATING
        return along(n, [name for name in self.names() if is_moving(name)])

    def may_have_moving_clones(self, name):
        """`rbd migration prepare` of 16.2 dies (SIGSEGV) where a clone of the image is under migration itself (seed 60477)."""
        def is_moving(name):
            with self.open(name, read_only=True) as image:
                return image.features() & MIGRATING
        with self.open(name, read_only=True) as image:
            return any(image.list_snaps()) and any(is_moving(other) for other in self.names())

    def migrate(self, n):
        name, new = self.pick(n[0]), self.fresh(n[1])
        if self.may_have_moving_clones(name):
            raise Nothing
        self.detach_from(name)
        self.rbd.migration_prepare(self.io, name, self.io, new)
        return f"migration prepare {name} {new}"

    def migrate_execute(self, n):
        name = self.moving(n[0])
        self.rbd.migration_execute(self.io, name)
        return f"migration execute {name}"

    def migrate_commit(self, n):
        name = self.moving(n[0])
        self.detach_from(name)
        self.rbd.migration_commit(self.io, name)
        return f"migration commit {name}"

    def migrate_abort(self, n):
        name = self.moving(n[0])
        self.detach_from(name)
        self.rbd.migration_abort(self.io, name)
        return f"migration abort {name}"

    def import_prepare(self, n):
        name, size = self.fresh(n[0]), 65536 * (4 + along(n[1], range(13)))
        path = os.path.join(self.files, f"{self.made}.raw")
        self.made += 1
        with open(path, "wb") as file:
            file.write(content(1 + n[2] % 5, 0, size))
        source = {"type": "raw", "stream": {"type": "file", "file_path": path}}
        self.rbd.migration_prepare_import(json.dumps(source), self.io, name, order=16, features=PLAIN | MAPS)
        return f"migration prepare --import-only {name}: {size} bytes"


def main():
    operator = Operator(sys.argv[1], sys.argv[2])
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        request, data = json.loads(line), b""
        answer = {}
        try:
            if request["op"] == "look":
                answer["images"] = operator.look()
            elif request["op"] == "read":
                data = operator.read(request)
                answer["length"] = len(data)
            else:
                answer["did"] = getattr(operator, request["op"])(request["n"])
        except Nothing:
            answer["declined"] = "nothing to do it to"
        except (rbd.Error, rados.Error) as error:
            answer["declined"] = f"{type(error).__name__}: {error}"
        out.write(json.dumps(answer).encode() + b"\n" + data)
        out.flush()


main()
