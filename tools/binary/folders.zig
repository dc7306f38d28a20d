//! Whether nobody else can write to a folder: what lies in it will run.
//!
//! Whoever can write to a folder can put another one in place of what it holds, so every folder on the way is looked at
//! as well, and none is made below one that does not pass. cllm_cli/kernels/private.py decides about the way by the same
//! rules.

const std = @import("std");
const linux = std.os.linux;
const system = @import("system.zig");

const Failure = system.Failure;
const done = system.done;
const Path = system.Path;

/// Opens a folder, which is made for the user alone where it is not there; one that is there keeps its mode.
pub fn open_safe(asked: Path) Failure!linux.fd_t {
    try check_way(asked, .make);
    const folder = try system.handle(linux.open(asked, .{ .DIRECTORY = true, .CLOEXEC = true }, 0));
    errdefer system.close(folder);
    try check_way(try true_path(folder), .refuse);
    const found = try system.own_status(folder);
    if (!is_safe(found)) return error.Unsafe;
    // Many users can be shown as this one (a user namespace, NFS), but only the owner may set the mode, and only the
    // owner may open what has none for others.
    if (found.uid == linux.geteuid() and found.mode & 0o077 != 0)
        _ = done(linux.fchmod(folder, found.mode & 0o7777)) catch if (system.reason != .ROFS) return error.Unsafe;
    return folder;
}

/// The path of an open folder without links in it.
pub fn true_path(folder: linux.fd_t) Failure!Path {
    return system.link_target(try system.print("/proc/self/fd/{d}", .{folder}));
}

/// Whether a file or folder is the user's or root's, and nobody else can write to it.
pub fn is_safe(found: linux.Statx) bool {
    return is_trusted(found) and found.mode & 0o022 == 0;
}

fn is_trusted(found: linux.Statx) bool {
    return found.uid == linux.geteuid() or found.uid == 0;
}

/// Fails where others could put another folder in the place of this one, or of one that it is in, or a link.
fn check_way(path: Path, missing: enum { make, refuse }) Failure!void {
    if (std.mem.findAny(u8, path, ":;$") != null) return error.Unloadable; // LD_LIBRARY_PATH knows no quoting
    var parent: Path = if (path[0] == '/') "/" else ".";
    const start = try system.status(linux.AT.FDCWD, parent);
    if (!is_shielded(start)) return if (path[0] == '/' and !is_trusted(start)) error.Unmapped else error.Unsafe;
    var end: usize = 0;
    while (end < path.len) {
        end = std.mem.findScalarPos(u8, path, end + 1, '/') orelse path.len;
        const step = try system.print("{s}", .{path[0..end]});
        if (missing == .make) try make_folder(parent, step);
        if (!is_shielded(try system.status(linux.AT.FDCWD, step))) return error.Unsafe;
        parent = step;
    }
}

/// Makes a folder that is not there, in one that is the user's or like /tmp (sticky): no other user's gets any.
fn make_folder(parent: Path, path: Path) Failure!void {
    if (system.status(linux.AT.FDCWD, path)) |_| return else |failure| if (!system.is_missing()) return failure;
    const around = try system.status_by(linux.AT.FDCWD, parent, 0);
    if (!is_shielded(around)) return error.Unsafe;
    if (around.uid != linux.geteuid() and around.mode & linux.S.ISVTX == 0) {
        system.reason = .ACCES;
        return error.System;
    }
    _ = done(linux.mkdir(path, 0o700)) catch |failure| if (system.reason != .EXIST) return failure;
}

/// Whether nobody else can put something in the place of what is in a folder; of a link, whether nobody else has laid it.
fn is_shielded(step: linux.Statx) bool {
    if (!is_trusted(step)) return false;
    if (step.mode & linux.S.IFMT == linux.S.IFLNK or step.mode & linux.S.ISVTX != 0) return true;
    if (step.mode & 0o002 != 0) return false;
    return step.mode & 0o020 == 0 or is_alone_in(step.gid);
}

/// Whether a group is the user's own, as many systems make one for each user.
fn is_alone_in(id: linux.gid_t) bool {
    const user = std.c.getpwuid(linux.geteuid()) orelse return false;
    const group = std.c.getgrgid(id) orelse return false;
    const name = std.mem.span(user.name orelse return false);
    if (user.gid != id or !std.mem.eql(u8, name, std.mem.span(group.name orelse return false))) return false;
    var count: usize = 0;
    while (group.mem[count]) |member| : (count += 1) if (!std.mem.eql(u8, name, std.mem.span(member))) return false;
    return true;
}
