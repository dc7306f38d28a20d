//! System calls that fail with an error, and why the last one did.

const std = @import("std");
const linux = std.os.linux;

pub const Path = [:0]const u8;

/// System: `reason` says why. Damaged: the file is not what was packed. Unsafe: others could change what would run.
/// Unmapped: the root folder is another's. Unloadable: the path is one that the system's loader would take apart.
pub const Failure = error{ System, Damaged, Unsafe, Unmapped, Unloadable, OutOfMemory };

/// Why the last system call failed.
pub var reason: linux.E = .SUCCESS;

var arena: std.heap.ArenaAllocator = .init(std.heap.page_allocator); // for paths and messages, never freed

pub fn print(comptime format: []const u8, values: anytype) error{OutOfMemory}!Path {
    return std.fmt.allocPrintSentinel(arena.allocator(), format, values, 0);
}

/// What a system call returned, or the failure that it told of.
pub fn done(result: usize) error{System}!usize {
    reason = linux.errno(result);
    return if (reason == .SUCCESS) result else error.System;
}

pub fn handle(result: usize) error{System}!linux.fd_t {
    return @intCast(try done(result));
}

pub fn is_done(result: usize) bool {
    return linux.errno(result) == .SUCCESS;
}

pub fn close(file: linux.fd_t) void {
    _ = linux.close(file);
}

/// Where a link leads to.
pub fn link_target(link: Path) error{ System, OutOfMemory }!Path {
    var buffer: [linux.PATH_MAX]u8 = undefined;
    return print("{s}", .{buffer[0..try done(linux.readlink(link, &buffer, buffer.len))]});
}

/// Of what a path leads to from an open folder; of a link itself.
pub fn status(folder: linux.fd_t, path: Path) error{System}!linux.Statx {
    return status_by(folder, path, linux.AT.SYMLINK_NOFOLLOW);
}

/// Of an open file or folder.
pub fn own_status(file: linux.fd_t) error{System}!linux.Statx {
    return status_by(file, "", linux.AT.EMPTY_PATH);
}

pub fn status_by(folder: linux.fd_t, path: Path, flags: u32) error{System}!linux.Statx {
    var found: linux.Statx = undefined;
    _ = try done(linux.statx(folder, path, flags, .BASIC_STATS, &found));
    return found;
}

/// Whether the last system call failed for want of what it was to look at.
pub fn is_missing() bool {
    return reason == .NOENT or reason == .NOTDIR or reason == .LOOP;
}

extern fn strerror(code: c_int) [*:0]const u8;

/// The system's words for a reason.
pub fn words(code: linux.E) []const u8 {
    return std.mem.span(strerror(@backingInt(code)));
}
