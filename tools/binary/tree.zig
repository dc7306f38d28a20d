//! The folder that the pack is unpacked into: written whole beside the place where it will be, then put there.
//!
//! Whoever writes to the cache folder holds the lock of its file `lock`. Whoever runs from a tree holds that of the tree,
//! and nobody removes it: what has to make room for a new one stays under another name as long.

const std = @import("std");
const linux = std.os.linux;
const folders = @import("folders.zig");
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
const UNNAMED = ".cllm-"; // with a number: what is being unpacked, and what was replaced and is in use
const LOCK = "lock";

const OWN_FOLDER: linux.O = .{ .DIRECTORY = true, .CLOEXEC = true, .NOFOLLOW = true };
const NEW_FILE: linux.O = .{ .ACCMODE = .WRONLY, .CREAT = true, .EXCL = true, .CLOEXEC = true };
const OLD_FILE: linux.O = .{ .CLOEXEC = true, .NOFOLLOW = true };
const LOCK_FILE: linux.O = .{ .ACCMODE = .RDWR, .CREAT = true, .CLOEXEC = true, .NOFOLLOW = true };

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/// The path of the folder with everything in it, which this process and what it becomes hold a lock on.
///
/// Where nothing can be locked (a read-only file system, some network ones) nothing is written either.
pub fn unpacked(cache: Path, pack: Pack) Failure!Path {
    const asked = try print("{s}/" ++ FOLDER, .{cache});
    const root = try folders.open_private(asked);
    defer close(root);
    const lock = take_lock(root);
    const unlocked = system.reason;
    defer if (lock) |file| close(file);
    const tree = try whole_tree(root, pack) orelse made: {
        if (lock == null) {
            system.reason = unlocked;
            return error.System;
        }
        try unpack(root, pack);
        break :made try whole_tree(root, pack) orelse {
            discard(root, pack.name); // a file system that keeps no modes or owners
            return error.Unsafe;
        };
    };
    _ = linux.flock(tree, LOCK_SH); // stays open; where it fails, that of who would remove the tree fails as well
    return print("{s}/{s}", .{ try folders.true_path(root, asked), pack.name });
}

/// Waits for the lock of the cache folder. Null where there is none, and then `system.reason` says why.
fn take_lock(root: linux.fd_t) ?linux.fd_t {
    const file = handle(linux.openat(root, LOCK, LOCK_FILE, 0o600)) catch read_only: {
        const why = system.reason;
        break :read_only handle(linux.openat(root, LOCK, OLD_FILE, 0)) catch {
            system.reason = why;
            return null;
        };
    };
    _ = done(linux.flock(file, LOCK_EX)) catch {
        close(file);
        return null;
    };
    return file;
}

/// The open folder of a pack. Null where it, or a file of it, is not there, not of its size, or not the user's alone.
fn whole_tree(root: linux.fd_t, pack: Pack) Failure!?linux.fd_t {
    const tree = handle(linux.openat(root, pack.name, .{ .DIRECTORY = true, .NOFOLLOW = true }, 0)) catch |failure|
        return if (system.is_missing()) null else failure;
    errdefer close(tree);
    if (try is_whole(tree, pack)) return tree;
    close(tree);
    return null;
}

fn is_whole(tree: linux.fd_t, pack: Pack) Failure!bool {
    const top = try system.own_status(tree);
    if (top.uid != linux.geteuid() or top.mode & 0o022 != 0) return false;
    if (!try is_file(tree, MANIFEST, pack.index.len)) return false;
    var entries = pack.entries();
    while (try entries.next()) |entry| if (!try is_file(tree, entry.path, entry.size)) return false;
    return true;
}

fn is_file(tree: linux.fd_t, path: Path, size: u64) Failure!bool {
    const file = system.status(tree, path) catch |failure| return if (system.is_missing()) false else failure;
    if (file.mode & linux.S.IFMT != linux.S.IFREG or file.size != size) return false;
    return file.uid == linux.geteuid() and file.mode & 0o022 == 0;
}

// ---- unpacking

fn unpack(root: linux.fd_t, pack: Pack) Failure!void {
    if (!pack.is_intact()) return error.Damaged;
    announce("unpacking cllm, once");
    defer announce("");
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
    const manifest = try create(folder, MANIFEST);
    defer close(manifest);
    try write_all(manifest, pack.index);
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
            defer close(file);
            var left = entry.size;
            while (left > 0) {
                const part = try contents.next(left);
                try write_all(file, part);
                left -= part.len;
            }
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

fn write_all(file: linux.fd_t, bytes: []const u8) Failure!void {
    var rest = bytes;
    while (rest.len > 0) rest = rest[try done(linux.write(file, rest.ptr, rest.len))..];
}

fn copy(folder: linux.fd_t, from: Path, to: Path) Failure!void {
    const source = try handle(linux.openat(folder, from, OLD_FILE, 0));
    defer close(source);
    const target = try create(folder, to);
    defer close(target);
    while (try done(linux.sendfile(target, source, null, 1 << 30)) > 0) {}
}

/// On a terminal, a line that the next one takes the place of.
fn announce(text: []const u8) void {
    var terminal: linux.termios = undefined;
    if (!is_done(linux.tcgetattr(2, &terminal))) return;
    const line = print("\r\x1b[K{s}", .{text}) catch return;
    _ = linux.write(2, line.ptr, line.len);
}

// ---- removing

/// Removes what other versions have unpacked, and what a killed process or a replaced tree has left.
fn remove_unused(root: linux.fd_t, kept: Path) void {
    var names: Names = .init(root);
    while (names.next()) |name| {
        const left = std.mem.startsWith(u8, name, UNNAMED);
        if (left or (is_ours(root, name) and !std.mem.eql(u8, name, kept))) discard(root, name);
    }
}

/// Whether a folder has the name and the manifest that an unpacked one has: what else lies there is somebody's.
fn is_ours(root: linux.fd_t, name: Path) bool {
    if (name.len != 32 or std.mem.findNone(u8, name, "0123456789abcdef") != null) return false;
    const folder = handle(linux.openat(root, name, OWN_FOLDER, 0)) catch return false;
    defer close(folder);
    return if (system.status(folder, MANIFEST)) |_| true else |_| false;
}

/// Removes a folder with everything in it, unless a process runs from it.
fn discard(root: linux.fd_t, name: Path) void {
    const folder = handle(linux.openat(root, name, OWN_FOLDER, 0)) catch return remove(root, name);
    defer close(folder);
    if (is_done(linux.flock(folder, LOCK_EX | LOCK_NB))) remove(root, name);
}

/// Removes a file, or a folder and everything in it, as far as it can.
fn remove(parent: linux.fd_t, name: Path) void {
    const before = system.reason;
    defer system.reason = before;
    const folder = handle(linux.openat(parent, name, OWN_FOLDER, 0)) catch {
        _ = linux.unlinkat(parent, name, 0);
        return;
    };
    var names: Names = .init(folder);
    while (names.next()) |inner| remove(folder, inner);
    close(folder);
    _ = linux.unlinkat(parent, name, linux.AT.REMOVEDIR);
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
