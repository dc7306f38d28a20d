//! The folder that the pack is unpacked into: written whole beside the place where it will be, then put there.
//!
//! Whoever writes to the cache folder holds the lock of its file `lock`. Whoever runs from a tree holds those of the tree
//! and of the file `.lock` in it, and nobody removes it: what has to make room for a new one stays under another name as
//! long. What locks a folder on NFS does not reach other machines, and what cleans up by age may take the file.

const std = @import("std");
const linux = std.os.linux;
const folders = @import("folders.zig");
const notice = @import("notice.zig");
const system = @import("system.zig");
const Contents = @import("pack.zig").Contents;
const Entry = @import("pack.zig").Entry;
const Pack = @import("pack.zig").Pack;

const Failure = system.Failure;
const Path = system.Path;
const close = system.close;
const done = system.done;
const handle = system.handle;
const is_done = system.is_done;
const print = system.print;

const FOLDER = "binary"; // within the cache
const MANIFEST = ".manifest"; // the index, for `cllm doctor`
const UNNAMED = ".cllm-unpacking-"; // with a number: what is being unpacked, and what was replaced and is in use
const LOCK = "lock"; // of the cache
const TREE_LOCK = ".lock"; // within a tree

const OWN_FOLDER: linux.O = .{ .DIRECTORY = true, .CLOEXEC = true, .NOFOLLOW = true };
const NEW_FILE: linux.O = .{ .ACCMODE = .WRONLY, .CREAT = true, .EXCL = true, .CLOEXEC = true };
const OLD_FILE: linux.O = .{ .CLOEXEC = true, .NOFOLLOW = true };
const LOCK_FILE: linux.O = .{ .ACCMODE = .RDWR, .CREAT = true, .CLOEXEC = true, .NOFOLLOW = true };
const OLD_LOCK_FILE: linux.O = .{ .ACCMODE = .RDWR, .CLOEXEC = true, .NOFOLLOW = true };

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/// A folder with everything in it, which nobody removes as long as its locks are open.
pub const Tree = struct { path: Path, locks: Locks };

const Locks = [2]linux.fd_t; // the folder and the file

pub fn let_go(locks: Locks) void {
    for (locks) |lock| close(lock);
}

/// Where nothing can be locked (some network file systems) or written, one that is whole is used.
pub fn unpacked(cache: Path, pack: Pack) Failure!Tree {
    const root = try folders.open_safe(try print("{s}/" ++ FOLDER, .{cache}));
    defer close(root);
    const path = try print("{s}/{s}", .{ try folders.true_path(root), pack.name });
    if (try whole_tree(root, pack)) |locks| return .{ .path = path, .locks = locks };
    const writing = try take_lock(root);
    defer close(writing);
    if (try whole_tree(root, pack)) |locks| return .{ .path = path, .locks = locks }; // who had it has unpacked
    try unpack(root, pack);
    if (try whole_tree(root, pack)) |locks| return .{ .path = path, .locks = locks };
    discard(root, pack.name); // a file system that keeps no modes or owners
    return error.Unsafe;
}

/// Waits for the lock of the cache folder.
fn take_lock(root: linux.fd_t) Failure!linux.fd_t {
    const file = try handle(linux.openat(root, LOCK, LOCK_FILE, 0o600));
    errdefer close(file);
    _ = done(linux.flock(file, LOCK_EX | LOCK_NB)) catch |failure| {
        if (system.reason != .AGAIN) return failure;
        notice.waiting("waiting for another cllm that unpacks");
        defer notice.done();
        _ = try done(linux.flock(file, LOCK_EX));
    };
    return file;
}

/// The locks of a pack's folder. Null where the folder, or a file of it, is not there, not of its size, or not safe.
fn whole_tree(root: linux.fd_t, pack: Pack) Failure!?Locks {
    const tree = handle(linux.openat(root, pack.name, OWN_FOLDER, 0)) catch |failure|
        return if (is_damage()) null else failure;
    errdefer close(tree);
    const lock = handle(linux.openat(tree, TREE_LOCK, OLD_FILE, 0)) catch |failure| {
        if (!is_damage()) return failure;
        close(tree);
        return null;
    };
    errdefer close(lock);
    const locks: Locks = .{ tree, lock };
    if (!is_removed(tree) and !is_removed(lock) and try is_whole(tree, pack)) return locks;
    let_go(locks);
    return null;
}

/// Takes a lock of a tree, unless one who removes the tree has it. Where nothing can be locked, nobody can remove it.
fn is_removed(file: linux.fd_t) bool {
    return if (done(linux.flock(file, LOCK_SH | LOCK_NB))) |_| false else |_| system.reason == .AGAIN;
}

fn is_whole(tree: linux.fd_t, pack: Pack) Failure!bool {
    if (!folders.is_safe(try system.own_status(tree))) return false;
    if (!try is_file(tree, TREE_LOCK, 0) or !try is_file(tree, MANIFEST, pack.index.len)) return false;
    var entries = pack.entries();
    while (try entries.next()) |entry| if (!try is_file(tree, entry.path, entry.size)) return false;
    return true;
}

fn is_file(tree: linux.fd_t, path: Path, size: u64) Failure!bool {
    const file = system.status(tree, path) catch |failure| return if (is_damage()) false else failure;
    return file.mode & linux.S.IFMT == linux.S.IFREG and file.size == size and folders.is_safe(file);
}

/// Whether the last system call failed since a file or folder of a tree is gone or closed.
fn is_damage() bool {
    return system.is_missing() or system.reason == .ACCES;
}

// ---- unpacking

fn unpack(root: linux.fd_t, pack: Pack) Failure!void {
    if (!pack.is_intact()) return error.Damaged;
    notice.working("unpacking cllm, once");
    defer notice.done();
    remove_unused(root, pack.name);
    const new = try make_unnamed(root);
    errdefer remove(root, new);
    const folder = try handle(linux.openat(root, new, OWN_FOLDER, 0));
    defer close(folder);
    try write_files(folder, pack);
    try put_in_place(root, new, pack.name);
}

fn make_unnamed(root: linux.fd_t) Failure!Path {
    var number: usize = 0;
    while (true) : (number += 1) {
        const name = try print(UNNAMED ++ "{d}", .{number});
        if (done(linux.mkdirat(root, name, 0o700))) |_| return name else |failure| {
            if (system.reason != .EXIST) return failure;
        }
    }
}

/// Gives a folder its name. At no time is nothing there, where the file system can exchange two names.
fn put_in_place(root: linux.fd_t, new: Path, name: Path) Failure!void {
    if (is_done(linux.renameat2(root, new, root, name, .{ .EXCHANGE = true }))) return discard(root, new);
    discard(root, name);
    if (is_done(linux.renameat(root, new, root, name))) return;
    const old = try make_unnamed(root);
    _ = try done(linux.renameat(root, name, root, old));
    _ = try done(linux.renameat(root, new, root, name));
}

fn write_files(folder: linux.fd_t, pack: Pack) Failure!void {
    close(try handle(linux.openat(folder, TREE_LOCK, LOCK_FILE, 0o600)));
    const manifest = try create(folder, MANIFEST);
    try finish(manifest, write_all(manifest, pack.index));
    _ = try done(linux.faccessat(folder, MANIFEST, linux.X_OK, 0)); // fails where nothing runs, before all is written

    var contents: Contents = try .open(pack.frame);
    defer contents.close();
    var entries = pack.entries();
    var before: ?Entry = null;
    while (try entries.next()) |entry| {
        make_parents(folder, entry.path);
        if (before != null and std.mem.eql(u8, before.?.digest, entry.digest)) {
            if (!is_done(linux.linkat(folder, before.?.path, folder, entry.path, 0)))
                try copy(folder, before.?.path, entry.path); // a file system without links
        } else {
            const file = try create(folder, entry.path);
            try finish(file, write_next(file, &contents, entry.size));
        }
        before = entry;
    }
}

fn make_parents(folder: linux.fd_t, path: Path) void {
    var end: usize = 0;
    while (std.mem.findScalarPos(u8, path, end, '/')) |slash| : (end = slash + 1) {
        const part = print("{s}", .{path[0..slash]}) catch return;
        _ = linux.mkdirat(folder, part, 0o700);
    }
}

fn create(folder: linux.fd_t, path: Path) Failure!linux.fd_t {
    return handle(linux.openat(folder, path, NEW_FILE, 0o500));
}

/// Closes a file that was written to: some file systems say only then that there was no room.
fn finish(file: linux.fd_t, written: Failure!void) Failure!void {
    written catch |failure| {
        close(file);
        return failure;
    };
    _ = try done(linux.close(file));
}

fn write_next(file: linux.fd_t, contents: *Contents, size: u64) Failure!void {
    var left = size;
    while (left > 0) {
        const part = try contents.next(left);
        try write_all(file, part);
        left -= part.len;
    }
}

fn write_all(file: linux.fd_t, bytes: []const u8) Failure!void {
    var rest = bytes;
    while (rest.len > 0) rest = rest[try done(linux.write(file, rest.ptr, rest.len))..];
}

fn copy(folder: linux.fd_t, from: Path, to: Path) Failure!void {
    const source = try handle(linux.openat(folder, from, OLD_FILE, 0));
    defer close(source);
    const target = try create(folder, to);
    try finish(target, send(target, source));
}

fn send(target: linux.fd_t, source: linux.fd_t) Failure!void {
    while (try done(linux.sendfile(target, source, null, 1 << 30)) > 0) {}
}

// ---- removing

/// Removes what other versions have unpacked, and what a killed process or a replaced tree has left.
fn remove_unused(root: linux.fd_t, kept: Path) void {
    var names: Names = .init(root);
    while (names.next()) |name| {
        const is_old = is_unpacked(root, name) and !std.mem.eql(u8, name, kept);
        if (is_old or is_unnamed(root, name)) discard(root, name);
    }
}

// What else lies there is somebody's.

fn is_unnamed(root: linux.fd_t, name: Path) bool {
    if (!std.mem.startsWith(u8, name, UNNAMED) or name.len == UNNAMED.len) return false;
    if (std.mem.findNone(u8, name[UNNAMED.len..], "0123456789") != null) return false;
    const found = system.status(root, name) catch return false;
    return found.mode & linux.S.IFMT == linux.S.IFDIR;
}

/// Whether a folder has the name and the manifest that an unpacked one has.
fn is_unpacked(root: linux.fd_t, name: Path) bool {
    if (name.len != 32 or std.mem.findNone(u8, name, "0123456789abcdef") != null) return false;
    const folder = handle(linux.openat(root, name, OWN_FOLDER, 0)) catch return false;
    defer close(folder);
    return if (system.status(folder, MANIFEST)) |_| true else |_| false;
}

/// Removes a folder with everything in it, unless a process runs from it; also a file that has its name.
fn discard(root: linux.fd_t, name: Path) void {
    const folder = opened(root, name) catch return remove(root, name);
    defer close(folder);
    if (!is_done(linux.flock(folder, LOCK_EX | LOCK_NB))) return;
    const lock = last_lock(folder) catch return;
    defer if (lock) |file| close(file);
    remove(root, renamed(root, name) catch name);
}

/// The lock of the file in a tree, for who removes it. Null where there is none: it was not written to the end, or
/// something has removed it.
fn last_lock(tree: linux.fd_t) Failure!?linux.fd_t {
    const found = system.status(tree, TREE_LOCK) catch |failure| return if (system.is_missing()) null else failure;
    if (found.mode & linux.S.IFMT != linux.S.IFREG) return null;
    if (found.mode & 0o600 != 0o600) _ = linux.fchmodat(tree, TREE_LOCK, 0o600);
    const file = try handle(linux.openat(tree, TREE_LOCK, OLD_LOCK_FILE, 0));
    errdefer close(file);
    _ = try done(linux.flock(file, LOCK_EX | LOCK_NB));
    return file;
}

/// Gives a folder a name by which the next that unpacks goes on removing it, where this one is stopped.
fn renamed(root: linux.fd_t, name: Path) Failure!Path {
    if (is_unnamed(root, name)) return name;
    const new = try make_unnamed(root);
    errdefer _ = linux.unlinkat(root, new, linux.AT.REMOVEDIR);
    _ = try done(linux.renameat(root, name, root, new));
    return new;
}

/// Removes a file, or a folder and everything in it, as far as it can.
fn remove(parent: linux.fd_t, name: Path) void {
    const before = system.reason;
    defer system.reason = before;
    const folder = opened(parent, name) catch {
        _ = linux.unlinkat(parent, name, 0);
        return;
    };
    var names: Names = .init(folder);
    while (names.next()) |inner| remove(folder, inner);
    close(folder);
    _ = linux.unlinkat(parent, name, linux.AT.REMOVEDIR);
}

/// A folder that is to be removed, whatever its mode was.
fn opened(parent: linux.fd_t, name: Path) Failure!linux.fd_t {
    const found = try system.status(parent, name);
    const is_closed = found.mode & 0o700 != 0o700;
    if (is_closed and found.mode & linux.S.IFMT == linux.S.IFDIR) _ = linux.fchmodat(parent, name, 0o700);
    return handle(linux.openat(parent, name, OWN_FOLDER, 0));
}

/// Of what is in an open folder.
const Names = struct {
    folder: linux.fd_t,
    buffer: [8192]u8 align(8) = undefined,
    position: usize = 0,
    end: usize = 0,

    fn init(folder: linux.fd_t) Names {
        _ = linux.lseek(folder, 0, linux.SEEK.SET);
        return .{ .folder = folder };
    }

    fn next(self: *Names) ?Path {
        while (true) {
            if (self.position == self.end) {
                self.end = done(linux.getdents64(self.folder, &self.buffer, self.buffer.len)) catch 0;
                self.position = 0;
                if (self.end == 0) return null;
            }
            const entry: *align(1) linux.dirent64 = @ptrCast(&self.buffer[self.position]);
            const start = self.position + @offsetOf(linux.dirent64, "name");
            self.position += entry.reclen;
            const name = std.mem.sliceTo(@as([*:0]const u8, @ptrCast(&self.buffer[start])), 0);
            if (!std.mem.eql(u8, name, ".") and !std.mem.eql(u8, name, "..")) return name;
        }
    }
};
