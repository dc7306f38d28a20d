//! The first part of the single-file `cllm`: it unpacks what follows it (pack.zig), once, and runs that.
//!
//! It is unpacked into the user's cache (tree.zig), where nobody else can write (folders.zig): what lies in it will run.
//! At each start the size and owner of every file in it are looked at; whoever changes or removes one has it unpacked
//! anew.

const std = @import("std");
const linux = std.os.linux;
const system = @import("system.zig");
const Pack = @import("pack.zig").Pack;
const unpacked = @import("tree.zig").unpacked;

const Path = system.Path;
const print = system.print;
const Environment = [:null]const ?[*:0]const u8;

const PROGRAM = "cllm"; // within the folder that is unpacked
const LIBRARIES = "_internal"; // likewise
const HINT = "set CLLM_CACHE_DIR to a folder of your own that programs can run from, with 500 MB of room";

pub fn main(process: std.process.Init.Minimal) u8 {
    const environment = process.environ.block.slice;
    const self = own_path(process.args.vector);
    const pack = Pack.open(self) catch |failure| return switch (failure) {
        error.Damaged => tell(self, "this file was cut short or is damaged", "fetch it again"),
        error.OutOfMemory => tell(self, explained(.NOMEM), HINT),
        else => tell(self, system.words(system.reason), "it has to be a file that you may read"),
    };
    const mask = linux.syscall1(.umask, 0o077);
    var first: ?Path = null;
    var first_cause = explained(.NOMEM);
    for (caches(environment)) |candidate| {
        const cache = candidate orelse continue;
        const cause = if (unpacked(cache, pack)) |folder| refused: {
            _ = linux.syscall1(.umask, mask);
            const command: [*:null]const ?[*:0]const u8 = @ptrCast(process.args.vector.ptr);
            const program = print("{s}/" ++ PROGRAM, .{folder}) catch return tell(self, explained(.NOMEM), HINT);
            const variables = told(environment, self, folder) catch return tell(self, explained(.NOMEM), HINT);
            const code = linux.errno(linux.execve(program, command, variables));
            _ = linux.syscall1(.umask, 0o077);
            if (code != .ACCES and code != .PERM) return tell(program, explained(code), HINT);
            break :refused explained(code);
        } else |failure| switch (failure) {
            error.Damaged => return tell(self, "its content does not fit its hash: it is damaged", "fetch it again"),
            error.Unsafe => "others can write there, or it belongs to another user",
            error.Unloadable => "its path has a ':', ';' or '$' in it, where the system's loader would not find libraries",
            error.OutOfMemory => explained(.NOMEM),
            error.System => explained(system.reason),
        };
        if (first == null) {
            first = cache;
            first_cause = cause;
        }
    }
    return tell(first orelse "no cache folder", first_cause, HINT);
}

fn tell(subject: []const u8, message: []const u8, hint: []const u8) u8 {
    const text = print("error: {s}: {s}\nhint: {s}\n", .{ subject, message, hint }) catch return 1;
    _ = linux.write(2, text.ptr, text.len);
    return 1;
}

fn explained(code: linux.E) []const u8 {
    return switch (code) {
        .ACCES, .PERM => "cannot write there, or not run what is written",
        .NOSPC, .DQUOT => "no space left to unpack into",
        .ROFS => "is read-only",
        .NOLCK, .OPNOTSUPP => "files cannot be locked there",
        .NOMEM => "not enough memory",
        .NOENT => "is not there, or the C library (glibc) that it needs is not",
        .@"2BIG" => "the arguments and the environment are too large",
        else => system.words(code),
    };
}

fn own_path(arguments: []const [*:0]const u8) Path {
    var buffer: [linux.PATH_MAX]u8 = undefined;
    const length = system.done(linux.readlink("/proc/self/exe", &buffer, buffer.len)) catch
        return if (arguments.len > 0) std.mem.span(arguments[0]) else PROGRAM;
    return print("{s}", .{buffer[0..length]}) catch PROGRAM;
}

/// The folders that come into question, the best first.
fn caches(environment: Environment) [6]?Path {
    const user = linux.geteuid();
    return .{
        joined(variable(environment, "CLLM_CACHE_DIR"), ""),
        joined(variable(environment, "XDG_CACHE_HOME"), "/cllm"),
        joined(variable(environment, "HOME"), "/.cache/cllm"),
        joined(variable(environment, "TMPDIR"), print("/cllm-{d}", .{user}) catch ""),
        print("/var/tmp/cllm-{d}", .{user}) catch null,
        print("/tmp/cllm-{d}", .{user}) catch null,
    };
}

fn joined(folder: ?[]const u8, rest: []const u8) ?Path {
    const text = folder orelse return null;
    if (text.len == 0 or text.len > linux.PATH_MAX / 2) return null;
    return print("{s}{s}", .{ text, rest }) catch null;
}

fn variable(environment: Environment, name: []const u8) ?[]const u8 {
    for (environment) |entry| {
        const text = std.mem.span(entry orelse break);
        if (text.len > name.len and text[name.len] == '=' and std.mem.startsWith(u8, text, name))
            return text[name.len + 1 ..];
    }
    return null;
}

/// The environment with CLLM_BINARY, which says what was started, and the libraries that came along before any others.
///
/// What PyInstaller starts with sets LD_LIBRARY_PATH itself, but needs one of them (zlib) to start.
fn told(environment: Environment, self: Path, folder: Path) error{OutOfMemory}![*:null]const ?[*:0]const u8 {
    const name = "CLLM_BINARY=";
    const places = "LD_LIBRARY_PATH=";
    var entries = try std.heap.page_allocator.allocSentinel(?[*:0]const u8, environment.len + 2, null);
    var count: usize = 0;
    for (environment) |entry| {
        const text = std.mem.span(entry.?);
        if (std.mem.startsWith(u8, text, name) or std.mem.startsWith(u8, text, places)) continue;
        entries[count] = entry;
        count += 1;
    }
    const before = variable(environment, "LD_LIBRARY_PATH") orelse "";
    const between = if (before.len > 0) ":" else "";
    entries[count] = (try print(name ++ "{s}", .{self})).ptr;
    entries[count + 1] = (try print(places ++ "{s}/" ++ LIBRARIES ++ "{s}{s}", .{ folder, between, before })).ptr;
    entries[count + 2] = null;
    return entries.ptr;
}
